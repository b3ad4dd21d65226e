"""vLLM's names."""

import pytest

from jambac_runtime import LLM, SamplingParams


def test_generate_and_chat(plan: str) -> None:
    llm = LLM(plan, max_num_seqs=4, enable_prefix_caching=False)
    params = SamplingParams(temperature=0, max_tokens=8)
    outputs = llm.generate(["Once upon a time.", {"prompt": "The sea"}, {"prompt_token_ids": [5, 6]}], params)
    assert [output.finished for output in outputs] == [True] * 3
    first = outputs[0].outputs[0]
    whole = llm.model.generate("Once upon a time.", temperature=0, max_tokens=8)
    assert (first.text, first.token_ids, first.finish_reason) == (whole.text, whole.tokens, "length")
    assert outputs[0].prompt_token_ids == llm.model.tokenize("Once upon a time.")
    assert llm.generate("The sea", params)[0].outputs[0].text == outputs[1].outputs[0].text
    assert llm.generate([5, 6], params)[0].outputs[0].text == outputs[2].outputs[0].text

    several = llm.generate("Once", SamplingParams(n=3, max_tokens=12, seed=4, temperature=1.5, logprobs=2))[0]
    assert [choice.index for choice in several.outputs] == [0, 1, 2]
    assert len({choice.text for choice in several.outputs}) > 1
    assert several.outputs[0].cumulative_logprob < 0

    each = llm.generate(["a", "b"], [SamplingParams(max_tokens=1), SamplingParams(max_tokens=2, ignore_eos=True)])
    assert len(each[1].outputs[0].token_ids) == 2
    chats = llm.chat([{"role": "user", "content": "Hi"}], params)
    assert chats[0].prompt is not None and "Hi" in chats[0].prompt
    llm.model.close()


def test_what_is_not_meant_here_is_refused(plan: str) -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)
    with pytest.raises(TypeError, match="tensor_parallel_size"):
        LLM(plan, tensor_parallel_size=2)
    llm = LLM(plan)
    assert llm.get_default_sampling_params().max_tokens == llm.model.info["defaults"]["max_tokens"]
    with pytest.raises(ValueError, match="found 1, expected one for each of 2"):
        llm.generate(["a", "b"], [SamplingParams()])
    with pytest.raises(ValueError, match="prompt_token_ids"):
        llm.generate({"text": "a"})
    llm.model.close()
