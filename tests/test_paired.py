"""Differences object by object, against arithmetic done by hand."""

import pandas as pd
import pytest

from vfusion3d.evaluation.paired import paired_differences


def scores(method: str, *psnr: float) -> pd.DataFrame:
    keys = [f"object {number}" for number in range(len(psnr))]
    return pd.DataFrame({"method": method, "key": keys, "psnr": psnr})


def test_the_spread_of_the_objects_cancels_and_that_of_the_differences_stays():
    results = pd.concat([scores("ours", 11.0, 22.0, 33.0), scores("constant", 10.0, 20.0, 30.0)])
    table = paired_differences(results, "ours", metrics=["psnr"])
    assert table.index.tolist() == ["ours minus constant"]
    assert table.psnr.tolist() == ["+2.000 ± 0.577"]  # 1, 2, 3: deviation 1, over the root of 3


def test_methods_stand_in_their_order_and_the_sign_says_who_is_ahead():
    results = pd.concat([scores("z", 1.0, 1.0), scores("ours", 2.0, 2.0), scores("a", 5.0, 5.0)])
    table = paired_differences(results, "ours", metrics=["psnr"])
    assert table.psnr.to_dict() == {"ours minus z": "+1.000 ± 0.000", "ours minus a": "-3.000 ± 0.000"}


def test_a_method_that_is_missing_or_lacks_objects_is_an_error():
    results = pd.concat([scores("ours", 1.0, 2.0), scores("lazy", 1.0)])
    with pytest.raises(ValueError, match="no method 'theirs': choose one of ours, lazy"):
        paired_differences(results, "theirs", metrics=["psnr"])
    with pytest.raises(ValueError, match="not every method has a psnr for every object"):
        paired_differences(results, "ours", metrics=["psnr"])
