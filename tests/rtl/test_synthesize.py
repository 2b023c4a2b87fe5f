"""Areas from synthesis: the same each time, in order, near the accelerator model's."""

import pytest

pytest.importorskip("amaranth", reason="needs intaglio[rtl]")
pytest.importorskip("pyosys", reason="needs intaglio[rtl]")

from intaglio.accelerator.area import pe_area_um2
from intaglio.accelerator.constants import area_constant
from intaglio.accelerator.hardware import load_hardware
from intaglio.rtl.design import MODES, Design
from intaglio.rtl.pe import PE
from intaglio.rtl.synthesize import cell_area


def area(**options):
    return cell_area(PE(Design(2, 2, **{"overlap": "wavefront", **options})))


def test_areas_of_a_pe():
    both = area()
    assert both == pytest.approx(984.7, abs=0.1)  # pyosys 0.70: an area is the same in every run
    assert area(modes=MODES[:1]) < area(modes=MODES[1:]) < both < area(overlap="shadow")
    assert area(sum_bits=24) < both


@pytest.mark.parametrize("overlap", ["wavefront", "shadow"])
def test_the_model_s_pe_of_both_dataflows_is_within_five_percent(overlap):
    array = load_hardware("cdm-qta-64x64").array.model_copy(update={"overlap": overlap})
    cells = float((pe_area_um2(array) * area_constant("cell_utilization"))[1])
    assert cells == pytest.approx(area(overlap=overlap), rel=0.05)
