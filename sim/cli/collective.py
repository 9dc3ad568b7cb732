"""`sim collective`: a collective alone on a topology, size by size, in the columns of nccl-tests."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.options import JsonOption
from sim.cli.output import STDOUT, refuse_file, refuse_folder, write_json, writing
from sim.errors import SimError

if TYPE_CHECKING:
    import pandas as pd

    from sim.spec.network import Network

EXAMPLES = (
    "sim collective dgx-h100 --op all_reduce --gpus 16 -b 1K -e 16G -f 2",
    "sim collective dgx-a100 --op all_gather --set nodes=4 --set network.algorithms.all_gather=ring",
    "sim collective single-node-h100 --op all_reduce --against all_reduce_perf.log --report reports/h100",
)

MAX_SIZES = 1000


class Op(StrEnum):
    """Collectives that have a program in nccl-tests."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"


class Element(StrEnum):
    """Types of nccl-tests; they count elements and change no time."""

    INT8 = "int8"
    HALF = "half"
    BFLOAT16 = "bfloat16"
    FLOAT = "float"
    DOUBLE = "double"


def command(  # noqa: PLR0913 - an option each
    topology: Annotated[
        str, typer.Argument(metavar="TOPOLOGY", help="Name (see `sim list topologies`) or path of a topology file.")
    ],
    *,
    op: Annotated[Op, typer.Option("--op", help="The collective.")] = Op.ALL_REDUCE,
    gpus: Annotated[
        int | None, typer.Option("--gpus", "-g", min=2, help="The first GPUs of the topology; all unless given.")
    ] = None,
    first: Annotated[str, typer.Option("--minbytes", "-b", metavar="SIZE", help="The first size, such as 1K.")] = "1K",
    last: Annotated[str, typer.Option("--maxbytes", "-e", metavar="SIZE", help="The last size, such as 16G.")] = "16G",
    factor: Annotated[int, typer.Option("--stepfactor", "-f", min=2, help="From one size to the next.")] = 2,
    element: Annotated[Element, typer.Option("--datatype", "-d", help="Type of an element.")] = Element.FLOAT,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="Override a value of the topology, such as nodes=4, or one below network. Can be given again.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", metavar="FILE", help="Measured times: what nccl-tests printed, or CSV as `sim validate` reads."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="Only rows of --against whose system has this text.")
    ] = None,
    json: JsonOption = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write a table and a picture of bus bandwidth here.")
    ] = None,
) -> None:
    """Time of a collective that has the network to itself.

    Sizes and bandwidths are those of nccl-tests: K, M and G are powers of 1024, all_gather, reduce_scatter and
    all_to_all count the total buffer, and busbw is algbw times 2 (n - 1) / n of all_reduce, (n - 1) / n of these.
    """
    refuse_file(json)
    refuse_folder(report)
    asked = _sizes(first, last, factor)
    table = _swept(topology, op.value, gpus, asked, element.value, settings or ())
    if against is not None:
        table = _beside(table, against, system)
    is_quiet = json == STDOUT
    if json is not None:
        write_json(_content(topology, table), json)
    if not is_quiet:
        typer.echo("\n".join(_lines(topology, table, element.value)))
    if report is not None:
        from sim.report.collectives import write_sweep  # noqa: PLC0415 - see sim.cli.run

        with writing(report):
            picture = write_sweep(table, topology, report)
        typer.echo(f"report: {picture}", err=is_quiet)


def _sizes(first: str, last: str, factor: int) -> list[int]:
    from sim.calibrate.nccl_tests import parse_size, sizes  # noqa: PLC0415 - see sim.cli.run

    ends = {"-b": parse_size(first), "-e": parse_size(last)}
    for option, text in (("-b", first), ("-e", last)):
        if not ends[option]:
            raise SimError(f"{option}: no size (got {text!r}, allowed a number of bytes above 0, or such as 1K, 16G)")
    low, high = ends["-b"] or 0, ends["-e"] or 0
    if high < low:
        raise SimError(f"-e is below -b (got {last!r}, allowed {first!r} or more)")
    return sizes(low, high, factor)


def _swept(
    topology: str, op: str, gpus: int | None, asked: Sequence[int], element: str, settings: Sequence[str]
) -> pd.DataFrame:
    """A row a size: op, gpus, nodes, nbytes, count, time_s, algbw, busbw (GB/s), algorithm, protocol."""
    import pandas as pd  # noqa: PLC0415 - see sim.cli.run

    from sim.calibrate.nccl_tests import (  # noqa: PLC0415 - see sim.cli.run
        ELEMENT_BYTES,
        GIGA,
        bus_factor,
        counted,
    )
    from sim.calibrate.systems import placed  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.topology_file import fabric_spec, read_topology  # noqa: PLC0415 - see sim.cli.run
    from sim.cost.network_time import lone_call  # noqa: PLC0415 - see sim.cli.run

    of_network = [each for each in settings if each.strip().startswith("network.")]
    network = _network(of_network)
    spec = fabric_spec(read_topology(topology), [each for each in settings if each not in of_network])
    fabric = spec.build()
    num_gpus = fabric.num_gpus if gpus is None else gpus
    if num_gpus < 2:
        raise SimError(f"{topology}: one GPU has nothing to send (got {num_gpus}, allowed 2 or more)")
    members = placed(fabric, num_gpus, 1)
    num_nodes = len(set(fabric.node_of(members[0]).tolist()))
    rows = []
    for size in asked:
        nbytes, count = counted(op, size, num_gpus, ELEMENT_BYTES[element])
        done = lone_call(op, nbytes, members, fabric, network)
        time_s = float(done.time_s[0])
        algbw = nbytes / GIGA / time_s
        bandwidths = {"algbw_GBps": algbw, "busbw_GBps": algbw * bus_factor(op, num_gpus)}
        chosen = {"algorithm": done.algorithm, "protocol": done.protocol}
        rows.append({"nbytes": nbytes, "count": count, "time_s": time_s, **bandwidths, **chosen})
    return pd.DataFrame(rows).assign(op=op, gpus=num_gpus, nodes=num_nodes).drop_duplicates("nbytes", ignore_index=True)


def _network(settings: Sequence[str]) -> Network:
    from sim.calibrate.topology_file import overridden  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.mistakes import validated  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.network import Network  # noqa: PLC0415 - see sim.cli.run
    from sim.spec.source import COMMAND_LINE, Node  # noqa: PLC0415 - see sim.cli.run

    tree = overridden(Node({"network": Node({}, COMMAND_LINE)}, COMMAND_LINE), settings)
    assert isinstance(tree.value, dict)
    return validated(Network, tree.value["network"], "network")


def _beside(table: pd.DataFrame, path: Path, system: str | None) -> pd.DataFrame:
    """The table with measured times and bus bandwidths, NaN where a size was not measured."""
    from sim.calibrate.collective_rows import read_rows  # noqa: PLC0415 - see sim.cli.run
    from sim.calibrate.nccl_tests import GIGA, bus_factor  # noqa: PLC0415 - see sim.cli.run

    op, gpus = str(table["op"].iloc[0]), int(table["gpus"].iloc[0])
    rows = read_rows(path, op=op, gpus=gpus).table
    ours = rows[(rows["op"] == op) & (rows["gpus"] == gpus)]
    if system is not None:
        ours = ours[ours["system"].str.contains(system, case=False, regex=False)]
    if ours.empty:
        has = ", ".join(sorted({f"{each.op} on {each.gpus} GPUs" for each in rows.itertuples()})[:8]) or "nothing"
        wanted = f"{op} on {gpus} GPUs" + (f" of {system!r}" if system else "")
        raise SimError(f"{path}: no row of what is simulated (got {has}, allowed {wanted})")
    systems = sorted(set(ours["system"]))
    if len(systems) > 1:
        raise SimError(f"{path}: rows of several systems (got {', '.join(systems)}, allowed one, named by --system)")
    measured_s = ours.groupby("nbytes")["time_s"].median().reindex(table["nbytes"]).to_numpy()
    busbw = table["nbytes"].to_numpy() / GIGA / measured_s * bus_factor(op, gpus)
    error = 100 * (table["time_s"].to_numpy() / measured_s - 1)
    return table.assign(measured_s=measured_s, measured_busbw_GBps=busbw, error=error)


def _lines(topology: str, table: pd.DataFrame, element: str) -> list[str]:
    """The table as nccl-tests prints it; then the algorithm, and the measured columns."""
    from sim.calibrate.nccl_tests import MICRO, PROGRAMS, head, row  # noqa: PLC0415 - see sim.cli.run

    op, gpus, nodes = str(table["op"].iloc[0]), int(table["gpus"].iloc[0]), int(table["nodes"].iloc[0])
    has_measured = "measured_s" in table
    titles = [f"{'algorithm':>14}", f"{'protocol':>8}"]
    titles += [f"{'measured':>9}", f"{'busbw':>7}", f"{'off':>6}"] if has_measured else []
    lines = [
        f"# Collective test starting: {PROGRAMS[op]}_perf",
        f"# simulated: {gpus} GPUs on {nodes} {'node' if nodes == 1 else 'nodes'} of {topology}",
        "#",
        *head(titles),
    ]
    for _, each in table.iterrows():
        line = row(op, int(each["nbytes"]), int(each["count"]), element, time_s=each["time_s"], num_gpus=gpus)
        line += f"  {each['algorithm']:>14}  {each['protocol']:>8}"
        if has_measured and each["measured_s"] > 0:
            line += f"  {each['measured_s'] / MICRO:9.2f}  {each['measured_busbw_GBps']:7.2f}  {each['error']:+5.0f}%"
        lines.append(line)
    return [*lines, *_summary(table)]


def _summary(table: pd.DataFrame) -> list[str]:
    """The average that nccl-tests prints, and how far measurements are."""
    lines = [f"# Avg bus bandwidth    : {table['busbw_GBps'].mean():.3f}"]
    if "measured_s" in table:
        errors = _errors(table)
        off = f"{errors['mape']:.1f} % over {errors['n']} measured sizes, from 1 MB {_text(errors['mape_ge_1mb'])}"
        lines.append(f"# off by {off}")
    return lines


def _text(value: float | None) -> str:
    return "no size" if value is None else f"{value:.1f} %"


def _errors(table: pd.DataFrame) -> dict[str, Any]:
    from sim.calibrate.collective_validation import LARGE_BYTES  # noqa: PLC0415 - see sim.cli.run

    measured = table[table["measured_s"] > 0]
    if measured.empty:
        raise SimError("none of the sizes was measured (allowed -b, -e and -f that meet the sizes of --against)")
    off = measured["error"].abs()
    large = off[measured["nbytes"] >= LARGE_BYTES]
    return {"n": len(off), "mape": float(off.mean()), "mape_ge_1mb": float(large.mean()) if len(large) else None}


def _content(topology: str, table: pd.DataFrame) -> dict[str, Any]:
    """What `--json` writes."""
    has_measured = "measured_s" in table
    gpus, nodes = int(table["gpus"].iloc[0]), int(table["nodes"].iloc[0])
    names = [name for name in table.columns if name not in ("op", "gpus", "nodes")]
    rows = table[names].astype(object).where(table[names].notna(), None).to_dict("records")
    return (
        {"topology": topology, "op": str(table["op"].iloc[0]), "gpus": gpus, "nodes": nodes}
        | (_errors(table) if has_measured else {})
        | {"sizes": rows}
    )
