#!/bin/sh
# pluto-ml: an init() that is refused, because a Run with this id exists, has reopened that Run. The server here is a
# stand-in that does with statuses what Pluto's does: create with a known id reopens a Run.
. "$(dirname "$0")/setup.sh"
environment pluto-ml==0.0.29
cleanup() { kill "$server" 2>/dev/null || :; }
echo 'expected:  a FAILED Run is FAILED after init() has raised RunExistsError for its id'

cat >server.py <<'PY'
import http.server, json
status = ["FAILED"]
SEVERITY = ["COMPLETED", "TERMINATED", "CANCELLED", "FAILED"]
KNOWN = {"runId": 7, "number": 1, "displayId": "DEM-1", "projectName": "demo", "organizationSlug": "o",
         "url": "http://127.0.0.1/r", "resumed": True, "forkedFromRunId": None, "forkStep": None}
class Server(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = {"success": True}
        if self.path.endswith("/slug"):
            answer = {"organization": {"slug": "o"}}
        elif self.path.endswith(("/runs/create", "/runs/resume")):
            status.append("RUNNING")
            answer = KNOWN
        elif self.path.endswith("/status/update"):
            wanted, now = json.loads(body)["status"], status[-1]
            if now == "RUNNING" or wanted == "RUNNING" or SEVERITY.index(wanted) >= SEVERITY.index(now):
                status.append(wanted)
        elif self.path.endswith("/trigger"):
            answer = {"status": status[-1]}
        with open("statuses", "w") as file:
            print(*status, file=file)
        self.answer(answer)
    def do_GET(self):
        self.answer({})
    def answer(self, value):
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
with open("port.tmp", "w") as file:
    print(server.server_address[1], file=file)
import os
os.rename("port.tmp", "port")
server.serve_forever()
PY
python3 -S server.py &
server=$!
while [ ! -e port ]; do sleep 0.1; done
url="http://127.0.0.1:$(cat port)"
export PLUTO_API_KEY=mlpi_0123456789abcdef PLUTO_URL_APP="$url" PLUTO_URL_API="$url" PLUTO_URL_INGEST="$url" PLUTO_URL_PY="$url"
if timeout 120 python -c 'import pluto; pluto.init(project="demo", run_id="training-1")' >out 2>&1; then
    changed 'it does not raise'
fi
grep -q RunExistsError out || changed "it raises $(tail -n 1 out)"
[ "$(cat statuses)" = 'FAILED RUNNING' ] || changed "its statuses: $(cat statuses)"
seen "RunExistsError, and the Run's statuses are $(tr ' ' ',' <statuses)"
