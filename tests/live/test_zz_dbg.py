from tests.outside import *
import time, json, pytest
from collections import Counter
@pytest.mark.parametrize("n,size,nap",[(60,7_000_000,2.0),(200,1_000_000,1.0)])
def test_big(launch, bus,n,size,nap):
    script = launch.service(f'''
@app.action("slow")
def slow():
    time.sleep({nap})
    return len(request.payload)
''', server=bus)
    with Peer(bus) as peer:
        peer.ask(script.service,"slow","")
        before=script.resident_kb()
        big="x"*size
        peer.link.send("CLIENT","REPLY","OFF")
        for _ in range(n):
            peer.link.send("PUBLISH", script.service, json.dumps(peer.request(script.service,"slow",big)))
        c=Counter()
        for r in peer.replies(6.0): c[r.get("code","ok")]+=1
        print("RES",n,size,nap,c, "peak MB", (script.status("VmHWM")-before)/1024, "after", (script.resident_kb()-before)/1024, [l for l in script.log.splitlines() if "gone" in l])
