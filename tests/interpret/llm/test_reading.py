"""Reading what models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselight.interpret.llm.chat import Answer
from sparselight.interpret.llm.reading import read
from sparselight.interpret.scorers.detection import yes_no_schema
from sparselight.interpret.scorers.intruder import schema_of
from sparselight.interpret.scorers.level_prediction import SCHEMA as LEVEL

FITS = yes_no_schema(3)


@pytest.mark.parametrize("text", [
    '{"fits": [1, 0, 1]}', ' {"fits":[1,0,1]} ', '```json\n{"fits": [1, 0, 1]}\n```', 'Here you are:\n{"fits": [1, 0, 1]} I hope it helps.', "[1, 0, 1]",
    "<think>perhaps {\"fits\": [0, 0, 0]}</think>\n{\"fits\": [1, 0, 1]}", 'First I thought {"fits": [0, 0, 0]}, but it is {"fits": [1, 0, 1]}',
    '{"why": "because {x}", "fits": [1, 0, 1]}',
])
def test_forms_that_are_read(text):
    assert read(Answer(text=text), FITS).data["fits"] == [1, 0, 1]


@pytest.mark.parametrize("text", [
    '{"fits": [1, 0]}', '{"fits": [1, 0, 2]}', '{"fits": ["1", "0", "1"]}', '{"fits": [true, false, true]}', '{"fit": [1, 0, 1]}', "1 0 1", "", "{", "null",
    '{"fits": [1, 0, 1',
])
def test_what_is_no_answer_is_garbage(text):
    reading = read(Answer(text=text), FITS)
    assert (reading.data, reading.why) == (None, "garbage")


def test_numbers_have_bounds():
    assert read(Answer(text='{"level": 10}'), LEVEL).data == {"level": 10}
    assert read(Answer(text="7"), LEVEL).data == {"level": 7}
    assert read(Answer(text='{"level": 11}'), LEVEL).data is None
    assert read(Answer(text='{"level": 3.5}'), LEVEL).data is None
    assert read(Answer(text='{"odd_one_out": 0}'), schema_of(5)).data is None


@pytest.mark.parametrize(("answer", "why"), [
    (Answer(refusal="no"), "refused"), (Answer(text="I'm sorry, but I can't."), "refused"), (Answer(text="I cannot assist."), "refused"),
    (Answer(text="I\u2019m unable to do so"), "refused"), (Answer(text='{"fits": [1, 0', is_cut=True), "cut"), (Answer(problem="the cap x"), "the cap x"),
])
def test_why_there_is_none(answer, why):
    assert read(answer, FITS) == (None, why)


@given(st.text(max_size=60))
def test_any_text_is_read_or_named(text):
    reading = read(Answer(text=text), FITS)
    assert (reading.data is None) == (reading.why != "")


@given(st.text(max_size=20), st.text(max_size=20), st.lists(st.integers(0, 1), min_size=3, max_size=3))
def test_an_answer_inside_any_text_is_found_or_refused_never_changed(before, after, fits):
    reading = read(Answer(text=f'{before}{{"fits": {fits}}}{after}'), FITS)
    assert reading.data is None or reading.data["fits"] == fits
