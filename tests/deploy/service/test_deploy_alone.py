"""What a device talks with needs nothing but Python: copied elsewhere, it checks in with the standard library alone."""

import asyncio
import subprocess
import sys
from pathlib import Path

from deploy_toy import CLIENTS, answer_of, run, serving, toy

from fedjaxlite.transport import credentials

ROOT = Path(__file__).resolve().parents[3] / "fedjaxlite"
TALKS = ("__init__", "protocol", "schemas", "packing", "link", "enrolling")
PROGRAM = """
import asyncio, pkgutil, random, sys
import device_copy.transport
from device_copy.transport import credentials
from device_copy.device import enrolling, link
from device_copy.device.protocol import Message
for module in pkgutil.iter_modules(device_copy.transport.__path__):
    __import__("device_copy.transport." + module.name)

async def work(folder, port):
    context = credentials.client_context(credentials.kept(folder))
    mine = link.link_to("127.0.0.1", port, context, random=random.random)
    print((await link.ask(mine, Message("secure", {"round": 0, "attempt": 0}, b"abc"))).body.decode())
    await link.close(mine)

asyncio.run(work(sys.argv[1], int(sys.argv[2])))
print(sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"__main__", "__mp_main__"}))
"""


def test_a_device_checks_in_with_the_standard_library_alone(tmp_path):
    credentials.keep(tmp_path / "me", CLIENTS[4])
    home = tmp_path / "device_copy"
    files = [*(ROOT / "transport").glob("*.py"), *(ROOT / "deploy" / "device" / f"{name}.py" for name in TALKS)]
    for path in files:
        text = path.read_text().replace("fedjaxlite.transport", "device_copy.transport")
        text = text.replace("fedjaxlite.deploy.device", "device_copy.device")
        copy = home / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    (home / "__init__.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    state = toy()

    async def work():
        async with serving(answer_of(state)) as served:
            # -S: without site-packages.
            command = [sys.executable, "-I", "-S", "-c", program, str(tmp_path / "me"), str(served.port)]
            return await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=50, check=False
            )

    done = run(work)
    assert done.stdout.splitlines() == ["cba", "['device_copy']"], done.stderr
    assert state.asked == [(4, "secure")]
