"""Tables as features and back: what the model sees can be written into the file, in the file's own units."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import mithridate as mi
from mithridate.data.encoding import Column, Encoder, Schema
from mithridate.data.tables import dataset_of
from patients import WARDS, patients


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return patients(300)


@pytest.fixture(scope="module")
def data(table) -> mi.Dataset:
    return dataset_of(table, "diagnosis", name="patients")


@pytest.fixture(scope="module")
def encoder(data) -> Encoder:
    assert data.schema is not None
    return Encoder.fit(data.schema, data.x[:200])


def settled(encoder: Encoder, rng: np.random.Generator, n: int, spread: float) -> np.ndarray:
    x = jnp.asarray(rng.normal(size=(n, len(encoder.feature_names))) * spread, jnp.float32)
    return np.asarray(encoder.feasible.settle(x))


def test_rows_come_back_as_they_were(table, data, encoder):
    found = encoder.decode(encoder.transform(data.x[:200]), data.y[:200])
    pd.testing.assert_frame_equal(found, table[:200], rtol=1e-7)
    assert list(found.dtypes) == list(table.dtypes)
    assert found.to_csv(index=False).splitlines()[1] == "17.99,2,1937,malignant,False,north,10.38"


def test_features_are_standardised_by_the_training_rows_alone(data, encoder):
    x = encoder.transform(data.x)
    assert x.dtype == np.float32
    numbers = [
        place for place, name in enumerate(encoder.feature_names) if name in ("radius [mm]", "nodes", "born", "texture")
    ]
    np.testing.assert_allclose(x[:200, numbers].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x[:200, numbers].std(axis=0), 1, rtol=1e-5)
    assert np.abs(x[200:, numbers].mean(axis=0)).max() > 1e-3
    assert set(np.unique(x[:, 4:])) == {0.0, 1.0}
    assert encoder.feature_names[4:] == ("smoker", *(f"ward={ward}" for ward in WARDS))
    back = x[:, :4] * encoder.scale[:4] + encoder.offset[:4]
    np.testing.assert_allclose(back, data.x[:, [0, 1, 2, 5]], rtol=1e-5, atol=1e-6)


def test_training_rows_are_feasible_and_settled_as_they_are(data, encoder):
    x = encoder.transform(data.x[:200])
    np.testing.assert_allclose(encoder.feasible.project(jnp.asarray(x)), x, atol=1e-6)
    np.testing.assert_allclose(encoder.feasible.settle(jnp.asarray(x)), x, atol=1e-6)


def test_settled_points_can_be_written_into_the_file_and_read_again(table, data, encoder, rng):
    x = settled(encoder, rng, 500, 3)
    frame = encoder.decode(x)
    assert (frame[["nodes", "born"]].dtypes == "int64").all()
    assert frame["ward"].isin(WARDS).all()
    for column in ("radius [mm]", "nodes", "born", "texture"):
        assert frame[column].between(table[column][:200].min(), table[column][:200].max()).all()
    again = np.column_stack([frame[column].astype(float) for column in ("radius [mm]", "nodes", "born", "smoker")])
    raw = encoder.raw(x)
    np.testing.assert_allclose(raw[:, [0, 1, 2, 3]], again)
    np.testing.assert_allclose(encoder.transform(raw), x, atol=1e-6)


def test_what_the_user_says_is_feasible_replaces_the_training_range(table, rng):
    said = ["born=1900:1925", "radius [mm]=:100", "smoker=True", "ward=west|east", "nodes=0:"]
    schema = dataset_of(table, "diagnosis", feasible=said).schema
    assert schema is not None
    raw = dataset_of(table, "diagnosis").x
    encoder = Encoder.fit(schema, raw)
    frame = encoder.decode(settled(encoder, rng, 300, 30))
    assert (frame["born"].min(), frame["born"].max()) == (1900, 1925)
    assert frame["radius [mm]"].min() == table["radius [mm]"].min()
    assert frame["radius [mm]"].max() == 100
    assert frame["smoker"].all()
    assert set(frame["ward"]) == {"west", "east"}
    assert frame["nodes"].max() == table["nodes"].max()


def test_a_range_beyond_all_rows_is_warned_of_and_an_end_beyond_them_needs_the_other(table):
    said = r"feasible born: from {} to \d{{4}} there is nothing; the {} go from .*give both ends"
    with pytest.raises(mi.InputError, match=said.format(2050, "rows")):
        dataset_of(table, "diagnosis", feasible=["born=2050:"])
    last = int(table["born"].max())
    data = dataset_of(table, "diagnosis", feasible=[f"born={last}:"])
    assert data.schema is not None
    with pytest.raises(mi.InputError, match=said.format(last, "training rows")):
        Encoder.fit(data.schema, data.x[table["born"] < last])
    with pytest.warns(UserWarning, match=r"feasible 'born=1800:1850' contains no row .* goes from \d{4} to"):
        dataset_of(table, "diagnosis", feasible=["born=1800:1850"])


def test_empty_cells_get_the_median_or_the_most_frequent_of_the_training_rows():
    columns = (
        Column("a", "number"),
        Column("b", "category", "str", ("x", "y", "z")),
        Column("c", "boolean", "bool", (False, True)),
        Column("d", "integer", "int64"),
    )
    schema = Schema(columns, Column("t", "category", "str", ("n", "p")), ("c", "t", "b", "a", "d"))
    nan = np.nan
    raw = np.array([[1, 2, 1, nan], [2, 2, 1, nan], [9, 0, 0, nan], [nan, nan, nan, nan]])
    encoder = Encoder.fit(schema, raw)
    found = encoder.decode(encoder.transform(raw), np.array([0, 1, 1, 0]))
    assert list(found.columns) == ["c", "t", "b", "a", "d"]
    assert found.iloc[3].tolist() == [True, "n", "z", 2.0, 0]
    assert encoder.high.tolist() == [9, 2, 1, 0]
    assert Encoder.fit(schema, raw[:2]).low.tolist() == [1, 2, 0, 0]
    assert found["t"].tolist() == ["n", "p", "p", "n"]


def test_a_table_of_numbers_alone_and_one_of_categories_alone(rng):
    target = Column("t", "integer", "int64", categories=(0, 1))
    for column in (Column("a", "number", "float32"), Column("a", "category", "str", ("x", "y"))):
        encoder = Encoder.fit(Schema((column,), target, ("a", "t")), np.array([[0.0], [1.0], [1.0]]))
        x = settled(encoder, rng, 6, 1)
        assert encoder.decode(x)["a"].dtype == column.dtype
        np.testing.assert_allclose(encoder.transform(encoder.raw(x)), x, atol=1e-6)
