"""Sessions and snapshots."""

from pathlib import Path

import pytest
from conftest import PROMPT, until_idle

from jambac_runtime import EngineError, Model


def test_an_answer_in_parts_is_the_whole_answer(model: Model) -> None:
    whole = model.generate(PROMPT, temperature=0, max_tokens=30, ignore_eos=True).tokens
    with model.session(PROMPT) as session:
        first = session.generate(temperature=0, max_tokens=12, ignore_eos=True)
        second = session.generate(temperature=0, max_tokens=18, ignore_eos=True)
        assert first.tokens + second.tokens == whole
        assert session.tokens == model.tokenize(PROMPT) + whole
        assert len(session) == len(session.tokens)


def test_appended_text_is_the_same_as_a_longer_prompt(model: Model) -> None:
    tokens = model.tokenize(PROMPT) + model.tokenize(" Anna", special=False)
    with model.session(PROMPT) as session:
        session.append(" Anna")
        assert session.tokens == tokens
        assert bytes(session.logits()) == bytes(model.logits(tokens))
        # Asking changes nothing.
        assert session.generate(temperature=0, max_tokens=9).tokens == model.generate(tokens, temperature=0, max_tokens=9).tokens


def test_forks_go_their_own_ways(model: Model) -> None:
    with model.session(PROMPT) as session, session.fork() as fork:
        session.append(" Anna")
        fork.append(" Ben")
        assert session.tokens != fork.tokens
        assert bytes(fork.logits()) == bytes(model.logits(fork.tokens))
        assert bytes(session.logits()) == bytes(model.logits(session.tokens))


def test_snapshots_go_on_with_the_same_bits(model: Model, plan: str, tmp_path: Path) -> None:
    with model.session(PROMPT) as session:
        session.generate(temperature=0, max_tokens=7, ignore_eos=True)
        snapshot = session.snapshot().with_note("seven tokens")
        tokens, logits = session.tokens, bytes(session.logits())
        after = session.generate(temperature=0, max_tokens=9).tokens
    assert (snapshot.tokens, snapshot.note) == (tokens, "seven tokens")
    assert snapshot.nbytes > 0 and snapshot.target == model.info["target"]
    snapshot.save(tmp_path / "x.state")
    with Model(plan, threads=1) as other:
        for same in (snapshot, model.load(tmp_path / "x.state"), other.snapshot_from_bytes(snapshot.to_bytes())):
            with other.restore(same) as again:
                assert (again.tokens, bytes(again.logits())) == (tokens, logits)
                assert again.generate(temperature=0, max_tokens=9).tokens == after
            assert same.note == "seven tokens"
    with pytest.raises(FileNotFoundError):
        model.load(tmp_path / "absent.state")
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises((ValueError, EngineError, OSError)):
        snapshot.save(tmp_path / "other.txt")
    assert (tmp_path / "other.txt").read_text() == "mine"
    with pytest.raises(ValueError):
        model.snapshot_from_bytes(snapshot.to_bytes()[:-1])


def test_a_session_is_busy_while_it_answers(model: Model) -> None:
    with model.session(PROMPT) as session:
        stream = session.stream(temperature=0, max_tokens=3000, ignore_eos=True)
        tokens = [next(stream).token for _ in range(3)]
        with pytest.raises(EngineError, match="is answering"):
            session.append("x")
        # Requests and forks run between its tokens.
        assert model.generate("Ben", max_tokens=3).tokens
        with session.fork() as fork:
            assert fork.tokens[:-1] == session.tokens[: len(fork) - 1]
        stream.close()
        picked = session.tokens[len(model.tokenize(PROMPT)) :]
        assert picked[:3] == tokens
        # It goes on behind the last token that was picked.
        more = session.generate(temperature=0, max_tokens=4, ignore_eos=True).tokens
        whole = model.generate(PROMPT, temperature=0, max_tokens=len(picked) + 4, ignore_eos=True).tokens
        assert picked + more == whole


def test_empty_and_closed_sessions(model: Model) -> None:
    session = model.session()
    with pytest.raises(ValueError, match="no tokens"):
        session.generate(max_tokens=3)
    session.append([])
    session.append(PROMPT)
    session.close()
    with pytest.raises(ValueError, match="removed"):
        session.tokens
    # A session that is dropped is closed.
    session = model.session(PROMPT)
    assert model.stats()["free_sequences"] == model.info["max_sequences"] - 1
    del session
    until_idle(model)


def test_no_more_sessions_than_the_plan_has(model: Model) -> None:
    sessions = [model.session() for _ in range(model.info["max_sequences"])]
    with pytest.raises(EngineError, match="state slots were requested, 0 are free"):
        model.session()
    for session in sessions:
        session.close()


def test_constraints_and_stops_in_sessions(model: Model) -> None:
    with model.session(PROMPT) as session:
        answer = session.generate(structured_outputs={"choice": ["yes", "no"]})
        assert (answer.text in ("yes", "no"), answer.finish_reason) == (True, "complete")
        with pytest.raises(ValueError, match="temperature"):
            session.generate(temperature=-1)
