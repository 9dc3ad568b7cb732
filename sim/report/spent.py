"""Energy and money in words."""

from __future__ import annotations

from sim import units
from sim.results.result import Result
from sim.results.spending import J_BY_KWH, RunSpending

KWH_BY_MWH = 1000.0
KG_BY_TONNE = 1000.0
BILLION = 1e9


def kilowatt_hours(energy_j: float) -> str:
    """Joules as kWh, from a thousand on as MWh.

    >>> kilowatt_hours(3.6e6), kilowatt_hours(9e9)
    ('1.00 kWh', '2.50 MWh')
    """
    kwh = energy_j / J_BY_KWH
    return f"{kwh:,.2f} kWh" if kwh < KWH_BY_MWH else f"{kwh / KWH_BY_MWH:,.2f} MWh"


def carbon(value_kg: float) -> str:
    """Mass of CO2 equivalents; small ones in g.

    >>> carbon(0.25), carbon(12.0), carbon(2500.0)
    ('250 g CO2e', '12.0 kg CO2e', '2.5 t CO2e')
    """
    if value_kg < 1:
        return f"{value_kg * KG_BY_TONNE:.3g} g CO2e"
    return f"{value_kg:,.1f} kg CO2e" if value_kg < KG_BY_TONNE else f"{value_kg / KG_BY_TONNE:,.1f} t CO2e"


def spent_energy(result: Result) -> str:
    """Mean power of a GPU, and what a step takes."""
    spending = result.spending
    return (
        f"{spending.gpu_w:,.0f} W a GPU on average; a step takes {kilowatt_hours(spending.energy_j)} "
        f"with nodes and PUE {spending.pue:g}, {carbon(spending.carbon_kg)}"
    )


def spent_money(result: Result) -> str:
    """Dollars of a step, and by whose price."""
    spending = result.spending
    return (
        f"${spending.usd:,.2f} a step at ${spending.usd_per_gpu_hour:,.2f} a GPU-hour "
        f"({spending.price}, {spending.price_date})"
    )


def whole_run(run: RunSpending) -> str:
    """A run without a break."""
    days = run.time_s / units.parse("1 d", "s")
    money = "" if run.usd is None else f", ${run.usd:,.0f}"
    return (
        f"{run.tokens / BILLION:,.4g} billion tokens in {days:,.1f} days without a break: "
        f"{run.gpu_hours:,.0f} GPU-hours, {kilowatt_hours(run.energy_j)}, {carbon(run.carbon_kg)}{money}"
    )


def energy_rows(result: Result) -> list[tuple[str, str, str, str]]:
    """(what, power of a GPU, energy of all, share of the whole): by cause, then what is around the GPUs, then all."""
    spending = result.spending

    def row(name: str, power: str, energy_j: float) -> tuple[str, str, str, str]:
        return name, power, kilowatt_hours(energy_j), f"{100 * energy_j / spending.energy_j:.1f} %"

    rows = [
        row(cause, f"{spending.gpu_w_by_cause[cause]:,.0f} W", energy_j)
        for cause, energy_j in spending.gpu_j_by_cause.items()
    ]
    around_j = spending.energy_j - spending.gpu_j - spending.node_j
    rows.append(row("rest of the nodes", "", spending.node_j))
    rows.append(row("rest of the data centre", "", around_j))
    rows.append(row("all", "", spending.energy_j))
    return rows
