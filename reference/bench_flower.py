"""Time a round between machines: the local engine, Flower as it is used here, and stock Flower with a plain numpy app.

All on this machine, over loopback, with the same payload (13 million float32 by default) and training that takes no
time, so that what is left is the engine. The local engine is one process. Here, coordinator and sites are processes with
the whole protocol (secure sum, signatures, TLS, node authentication) over a stock SuperLink. Stock Flower is the usual
way: SuperLink, SuperNodes, FedAvg and a ClientApp that returns its array, without TLS and without masks.

    python reference/bench_flower.py --flower VENV [--sites 3,4] [--parameters 13000000] [--rounds 5]
    python reference/bench_flower.py --flower VENV --gallery 6500 --sites 16

VENV is what `fedgestalt engine install` made. Needs cargo (the program is built with the profile of the tests). Seconds
leave the first round out everywhere: apps start in it, files and memory grow. With `--gallery` a site asks the kernel five
times; seconds from request to answer. Bytes are those through the loopback device, acknowledgements included, divided by
rounds; memory is the greatest peak of the processes of a kind, processor time that of all of a kind from their start on.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
WAYS = ("local", "here", "stock")

PYPROJECT = """[project]
name = "plain"
version = "1.0.0"
description = "A plain numpy app"
license = {file = "LICENSE"}
dependencies = ["flwr>=1.40"]

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "plain:server"
clientapp = "plain:client"

[tool.flwr.app.config]
parameters = 1
rounds = 1
sites = 1
times = ""
"""

APP = '''
import time
import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    # Noise, another at every site: equal pieces would travel once.
    noise = np.random.default_rng(context.node_id)
    arrays = [array + noise.random(array.shape, np.float32) for array in message.content["arrays"].to_numpy_ndarrays()]
    content = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10})}
    return Message(content=RecordDict(content), reply_to=message)

@server.main()
def main(grid, context):
    config = context.run_config
    def note(round, arrays):
        with open(config["times"], "a") as file:
            print(round, time.time(), file=file)
    sites = config["sites"]
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    initial = ArrayRecord([np.zeros(config["parameters"], np.float32)])
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=config["rounds"], evaluate_fn=note)
'''


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loopback() -> int:
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


class Watch:
    """Greatest peaks of memory, and processor time in all, by kind of process, among the descendants of this one."""

    KINDS = ("flower-superlink", "flwr-serverapp", "flwr-clientapp", "flower-supernode", "bench_engines")

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.spent: dict[str, dict[str, float]] = {}

    def figures(self) -> dict:
        seconds = {kind: sum(processes.values()) for kind, processes in self.spent.items()}
        return {"MB": self.peaks, "processor s": seconds}

    def look(self) -> None:
        parents, lines, ticks = {}, {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                parents[folder.name], ticks[folder.name] = fields[1], int(fields[11]) + int(fields[12])
                lines[folder.name] = (folder / "cmdline").read_text().split("\0")
            except OSError:
                continue
        for pid, words in lines.items():
            above = pid
            while above in parents and above != str(os.getpid()):
                above = parents[above]
            kind = next((kind for kind in self.KINDS if any(kind in word for word in words[:3])), None)
            if above != str(os.getpid()) or kind is None:
                continue
            if kind == "bench_engines":
                kind = "coordinator" if "coordinator" in words else "site" if "site" in words else "everybody"
            self.spent.setdefault(kind, {})[pid] = ticks[pid] / os.sysconf("SC_CLK_TCK")
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = [line for line in status.splitlines() if line.startswith("VmHWM")]
            if peak:
                megabytes = int(peak[0].split()[1]) / 1024
                self.peaks[kind] = max(self.peaks.get(kind, 0), megabytes)


def wait(until, watch: Watch, limit: float) -> None:
    began = time.time()
    while not until():
        if time.time() - began > limit:
            raise TimeoutError
        watch.look()
        time.sleep(0.2)


def ours(program: Path, way: str, args, sites: int, folder: Path) -> dict:
    common = ["--sites", sites, "--parameters", args.parameters, "--rounds", args.rounds, "--gallery", args.gallery]
    common += ["--dim", args.dim]
    common = [str(word) for word in [*common, "--folder", folder, "--engine", args.flower]]
    watch, before = Watch(), loopback()
    log = (folder / "log").open("w")

    def start(*words) -> subprocess.Popen:
        command = [str(program), *(str(word) for word in words), *common]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)

    parts = [start("local")] if way == "local" else [start("coordinator"), *(start("site", at) for at in range(sites))]
    try:
        # One that fails ends it: the others would wait for it.
        wait(lambda: any(part.poll() for part in parts) or all(part.poll() == 0 for part in parts), watch, args.limit)
    except TimeoutError:
        still = [" ".join(part.args[1:3]) for part in parts if part.poll() is None]
        said = (folder / "log").read_text()[-2000:]
        raise TimeoutError(f"after {args.limit} s these still run: {', '.join(still)}; they said\n{said}") from None
    finally:
        for part in parts:
            # With the SuperLink that the coordinator started.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
    said = [part.stdout.read() for part in parts]
    if any(part.returncode for part in parts):
        raise RuntimeError((folder / "log").read_text()[-2000:])
    found = json.loads(said[0])
    result = {"seconds per round": found["seconds_per_round"]} | watch.figures()
    if way == "local":
        result["message MB"] = found["bytes_up"] / args.rounds / 1e6
    else:
        # It ends when the last round begins.
        rounds = args.rounds - 1
        result["wire MB per round"] = (loopback() - before) / rounds / 1e6
        result["front MB up, down per round"] = [found[key] / rounds / 1e6 for key in ("front_up", "front_down")]
    if args.gallery and way != "local":
        result["answers"] = json.loads(said[1])["answers"]
    return result


def stock(args, sites: int, folder: Path) -> dict:
    (folder / "app").mkdir()
    (folder / "app" / "pyproject.toml").write_text(PYPROJECT)
    (folder / "app" / "LICENSE").write_text("MIT\n")
    (folder / "app" / "plain.py").write_text(APP)
    port, times = free_port(), folder / "times"
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    venv = args.flower.absolute() / "bin"
    environment = os.environ | {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment["PATH"] = f"{venv}:{environment['PATH']}"
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        environment.pop(name, None)
    watch = Watch()
    log = (folder / "log").open("w")

    def start(*words) -> subprocess.Popen:
        command = [str(word) for word in words]
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)

    # Else it gathers the app's dependencies anew from the package index before the first round.
    alone = "--disable-runtime-dependency-installation"
    link = start(venv / "flower-superlink", "--insecure", alone, "--host", "127.0.0.1", "--port", port)
    parts = [link]
    try:
        time.sleep(8)
        for _ in range(sites):
            node = ["--superlink", f"127.0.0.1:{port}", "--port", free_port()]
            parts.append(start(venv / "flower-supernode", "--insecure", *node))
        time.sleep(4 + sites)
        before = loopback()
        config = f'parameters={args.parameters} rounds={args.rounds} sites={sites} times="{times}"'
        subprocess.run(
            [str(venv / "flwr"), "run", "app", "bench", "--run-config", config],
            env=environment, cwd=folder, check=True, stdout=log, stderr=log, timeout=120,
        )
        last = lambda: times.exists() and len(times.read_text().splitlines()) > args.rounds
        wait(last, watch, args.limit)
        wire = loopback() - before
    except (TimeoutError, subprocess.SubprocessError) as error:
        raise RuntimeError((folder / "log").read_text()[-2000:]) from error
    finally:
        for part in reversed(parts):
            part.terminate()
        for part in parts:
            part.wait()
    # Line 0 is the start, line k the end of round k.
    at = [float(line.split()[1]) for line in times.read_text().splitlines()]
    seconds = (at[args.rounds] - at[1]) / (args.rounds - 1)
    return {"seconds per round": seconds, "wire MB per round": wire / args.rounds / 1e6} | watch.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flower", type=Path, required=True)
    parser.add_argument("--sites", default="4")
    parser.add_argument("--parameters", type=int, default=13_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="3 and more")
    parser.add_argument("--gallery", type=int, default=0)
    parser.add_argument("--dim", type=int, default=1536, help="length of an encoding; the paper's ensemble has 6144")
    parser.add_argument("--limit", type=float, default=170)
    parser.add_argument("--only", default="")
    parser.add_argument("--program", type=Path, help="bench_engines, if it is built already")
    args = parser.parse_args()
    program = args.program
    if program is None:
        build = ["cargo", "build", "--quiet", "-p", "fedgestalt", "--example", "bench_engines"]
        subprocess.run(build, cwd=REPOSITORY, check=True)
        target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
        program = target / "debug" / "examples" / "bench_engines"
    if args.gallery:
        args.parameters, args.rounds = 1000, 3
        args.only = args.only or "here"
    for sites in (int(number) for number in args.sites.split(",")):
        for way in WAYS:
            if args.only and way not in args.only.split(","):
                continue
            with tempfile.TemporaryDirectory() as folder:
                run = stock(args, sites, Path(folder)) if way == "stock" else ours(program, way, args, sites, Path(folder))
            print(json.dumps({"sites": sites, "way": way} | rounded(run)), flush=True)


def rounded(value):
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
