#!/bin/sh
# etcd's JSON gateway takes what it does not know: a misspelt `compare` is left out, so the transaction always succeeds;
# a keepalive of a lease that is gone is answered with 200, without a TTL.
. "$(dirname "$0")/setup.sh"
debian etcd-server
cleanup() { kill "$etcd" 2>/dev/null || :; }
echo 'expected:  an unknown field is refused, and so is a keepalive of a lease that does not exist'

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$debs/usr/bin/etcd" --data-dir data --listen-client-urls "http://127.0.0.1:$port" \
    --advertise-client-urls "http://127.0.0.1:$port" --listen-peer-urls http://127.0.0.1:0 >etcd.log 2>&1 &
etcd=$!
cat >ask.py <<'PY'
import base64, json, sys, time, urllib.error, urllib.request
def ask(path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}/v3/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {}
def coded(text):
    return base64.b64encode(text.encode()).decode()
for _ in range(100):
    try:
        ask("kv/range", {"key": coded("key")})
        break
    except OSError:
        time.sleep(0.1)
ask("kv/put", {"key": coded("key"), "value": coded("mine")})
wrong = {"key": coded("key"), "target": "VERSION", "result": "EQUAL", "version": "77"}
write = {"requestPut": {"key": coded("key"), "value": coded("theirs")}}
right = ask("kv/txn", {"compare": [wrong], "success": [write]})
misspelt = ask("kv/txn", {"compares": [wrong], "success": [write]})
gone = ask("lease/keepalive", {"ID": "12345"})
print(f"compare: {right[1].get('succeeded', False)}, compares: {misspelt[0]} {misspelt[1].get('succeeded', False)};"
      f" keepalive: {gone[0]} {'TTL' in gone[1].get('result', {})}")
PY
python3 ask.py "$port" >out 2>err || changed "$(tail -n 1 err)"
[ "$(cat out)" = 'compare: False, compares: 200 True; keepalive: 200 False' ] || changed "$(cat out)"
seen 'a transaction with a false `compares` succeeds (200); a keepalive of no lease is answered with 200, without TTL'
