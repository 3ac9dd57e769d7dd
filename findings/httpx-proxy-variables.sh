#!/bin/sh
# One proxy variable that httpx cannot use keeps it from any request, also where another one is meant for the address.
# Desktops set ALL_PROXY=socks://… beside HTTPS_PROXY; login nodes of clusters export SOCKS proxies, or [::1] in NO_PROXY.
. "$(dirname "$0")/setup.sh"
environment httpx==0.28.1 requests==2.32.5
echo 'expected:  a client takes the variable of the scheme, or none for a host in NO_PROXY, as requests and urllib do'

python -m http.server --bind 127.0.0.1 0 >served 2>&1 &
server=$!
cleanup() { kill "$server" 2>/dev/null || :; }
until port=$(sed -n 's/.* port \([0-9]*\).*/\1/p' served) && [ -n "$port" ]; do sleep 0.1; done

cat >ask.py <<'END'
import sys, urllib.request
import httpx, requests
url = sys.argv[1]
def told(ask):
    try: return str(ask())
    except Exception as error: return type(error).__name__
print("urllib=" + told(lambda: urllib.request.urlopen(url).status),
      "requests=" + told(lambda: requests.get(url).status_code),
      "httpx=" + told(lambda: httpx.get(url).status_code))
END
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY
ask() { env PYTHONUNBUFFERED=1 "$@" python ask.py "http://127.0.0.1:$port/" | tee -a out; }
ask NO_PROXY=127.0.0.1 ALL_PROXY=socks://127.0.0.1:1/
ask NO_PROXY=127.0.0.1 ALL_PROXY=socks5://127.0.0.1:1
ask NO_PROXY='127.0.0.1,[::1]:80' HTTP_PROXY=http://127.0.0.1:1
sed 's/.*httpx=//' out | tr '\n' ' ' >httpx
[ "$(cat httpx)" = 'ValueError ImportError InvalidURL ' ] || changed "httpx: $(cat httpx)"
[ "$(grep -c 'urllib=200 requests=200' out)" = 3 ] || changed 'urllib or requests does not go past the proxy either'
seen 'no client can be made, and no request is sent: ValueError, ImportError, InvalidURL; the others ask the server'
