from sparselight.records import EvalRecord, EvalRow, MetricValue
from sparselight.report.headline import headline_sentences, interval_sentence
from sparselight.report.words import BY_KIND, TEXT, words_of


def test_a_run_speaks_of_what_its_corpus_holds():
    assert words_of({"corpus": {"kind": "protein"}}).texts == "proteins"
    assert words_of({"corpus": {"kind": "interactions"}}).groups == "users"
    assert words_of({"corpus": {"kind": "something new"}}) == words_of({}) == TEXT


def test_sentences_take_the_words():
    def row(coder, value):
        return EvalRow(coder=coder, is_control=False, dataset="domain", metric="fvu", value=MetricValue(value=value, low=value, high=value, n=7, unit="groups"))

    record = EvalRecord(rows=[row("base", 0.3), row("base+residual", 0.2)], differences=[], n_tokens={"domain": 10})
    users = BY_KIND["interactions"]
    assert "over whole users" in interval_sentence(record, None, users) and "7 users (domain)" in interval_sentence(record, None, users)
    assert "whole files" in interval_sentence(record, None)
    assert not any("text" in sentence for sentence in headline_sentences(record, users))
