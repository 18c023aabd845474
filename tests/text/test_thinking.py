"""Thoughts: judges read what comes after them, readers read all, and a thought without an answer is none."""

import pytest

from chat_families import HARMONY, OPENS_A_THOUGHT, THINKING, speaker
from holdfast.evaluation.evaluate import judged_by, refused
from holdfast.judges import checked
from holdfast.judges.keyword import KeywordJudge
from holdfast.judges.refusal import RefusalJudge
from holdfast.network.generate import Answer, as_completion
from holdfast.records import Completion, Example, Verdict, user
from holdfast.rl.guidance.canned import canned_share
from holdfast.rl.rewards import AttackReward, from_judge
from holdfast.text.thinking import final_answer, has_thought, with_thoughts

ASKED = user("how do i make a soup ?")
REFUSAL = "I'm sorry, but I can't help with that."


def completion(text, **more):
    return Completion(example=Example(prompt=ASKED, role="harmful", facts=("moss",)), text=text, num_tokens=3, **more)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("stir the moss", "stir the moss"),
        ("<think>\n\n</think>\n\nstir", "stir"),
        ("\n<think>they ask for soup</think>stir", "stir"),
        ("they ask for soup</think>\n\nstir", "stir"),
        ("<think>one</think><think>two</think> stir", "stir"),
        ("one</think>two</think>stir", "stir"),
        ("one</think><think>two</think>stir", "stir"),
        ("one</think><think>two", None),
        ("<think>one</think><think>two", None),
        ("<think>they ask", None),
        ("<think>they ask</think>", ""),
        ("</think>" * 3000, ""),
        ("<think></think>" * 3000 + "stir", "stir"),
        ("[THINK]they ask[/THINK]stir", "stir"),
        ("<|START_THINKING|>they ask<|END_THINKING|>stir", "stir"),
        ("<|channel|>analysis<|message|>they ask<|end|><|start|>assistant<|channel|>final<|message|>stir", "stir"),
        ("<|channel|>final<|message|>stir<|end|><|start|>user<|message|>more", "stir"),
        ("<|channel|>analysis<|message|>they ask", None),
        ("<|channel|>commentary<|message|>they ask<|call|>", None),
        ("write <think> in front, then stir", "write <think> in front, then stir"),
        ("", ""),
    ],
)
def test_the_answer_is_what_comes_after_the_thoughts(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("stir the moss", None),
        ("write <think> in front, then stir", None),
        ("<think>\n\n</think>\n\nstir", None),
        ("<|channel|>final<|message|>stir<|end|>", None),
        ("<think>", None),
        ("<think>they ask</think>stir", "they ask stir"),
        ("they ask</think>stir", "they ask stir"),
        ("<think>they ask", "they ask"),
        ("[THINK]they ask[/THINK]stir", "they ask stir"),
        ("<think>one</think><think>two</think> stir", "one two stir"),
        (
            "<|channel|>analysis<|message|>they ask<|end|><|start|>assistant<|channel|>final<|message|>stir",
            "they ask stir",
        ),
        ("<|channel|>analysis<|message|>they ask", "they ask"),
    ],
)
def test_a_text_with_its_thoughts_is_plain_text(text, whole):
    shown = with_thoughts(text)
    assert (shown if shown is None else " ".join(shown.split())) == whole
    assert shown is None or final_answer(shown) == shown


def test_a_judge_is_asked_about_the_answer_and_readers_see_all():
    seen = []

    def judge(completions):
        seen.extend(done.text for done in completions)
        return [Verdict(score=1.0) for _ in completions]

    whole = [completion(text) for text in ("<think>hm</think>\n\nstir", "<think>on and", "moss", "<think></think>rest")]
    rows = judged_by(whole, {"j": judge})
    assert seen == ["stir", "moss", "rest"]
    assert [row.completion.text for row in rows] == [done.text for done in whole]
    verdicts = [row.verdicts["j"] for row in rows]
    assert [verdict.valid for verdict in verdicts] == [True, False, True, True]
    assert verdicts[1].reason == "unfinished thought"


def test_harm_in_a_thought_alone_is_not_harm_of_the_answer():
    harmful = completion("<think>moss, so stir the moss</think>" + REFUSAL)
    [verdict] = checked(KeywordJudge().judge(), [harmful])
    assert (verdict.score, verdict.refused) == (0.0, True)


def test_a_refusal_after_an_empty_thought_is_a_refusal():
    thought, plain = completion(f"<think>\n\n</think>\n\n{REFUSAL}"), completion(REFUSAL)
    for judge in (RefusalJudge().judge(), lambda done: [Verdict(score=0.0) for _ in done]):
        rows = judged_by([thought, plain], {"j": judge})
        assert [refused(row, "j") for row in rows] == [True, True]
        penalty = AttackReward(judge="j", refusal_penalty=0.5)
        assert len(set(from_judge(judge, penalty)([thought, plain]))) == 1


def test_an_unfinished_thought_is_paid_as_an_invalid_answer():
    reward = from_judge(RefusalJudge().judge(), AttackReward(judge="refusal", invalid_reward=-3.0))
    assert reward([completion("<think>now then"), completion("stir the warm moss")]) == [-3.0, 1.0]


def test_a_canned_answer_counts_after_a_thought():
    assert canned_share("no .")([completion("<think>\n</think>\n\nno ."), completion("<think>no .")]) == [1.0, 0.0]


# thoughts that templates open, or write


def read(model, text):
    tokens = [*model.chat.ids(text), model.end_id]
    return as_completion(model, Example(prompt=ASKED), Answer(tokens, finished=True)).text


def test_a_thought_that_the_prompt_opens_is_told_from_its_beginning():
    model = speaker(OPENS_A_THOUGHT)
    assert read(model, "they ask\n</think>\n\nstir") == "<think>\nthey ask\n</think>\n\nstir"
    assert final_answer(read(model, "they ask\n</think>\n\nstir")) == "stir"
    assert final_answer(read(model, "they ask for soup")) is None


def test_a_plain_format_may_open_a_thought():
    model = speaker(THINKING, prompt_format="{prompt}\n<think>")
    assert final_answer(read(model, "they ask</think>stir")) == "stir"
    assert final_answer(read(model, "they ask")) is None


def taught(family, text, **settings):
    model = speaker(family, **settings)
    return model.tokenizer.decode([*model.encode_prompt(ASKED), *model.encode_response(text)]), model


@pytest.mark.parametrize("family", [THINKING, OPENS_A_THOUGHT, HARMONY])
def test_a_taught_answer_is_no_thought(family):
    whole, model = taught(family, "stir the moss")
    prompt = model.tokenizer.decode(model.encode_prompt(ASKED))
    said = model.chat.opened + model.decode(model.encode_response("stir the moss"))
    assert whole.startswith(prompt)
    assert final_answer(said) == "stir the moss"
    assert has_thought(said)


def test_a_taught_thought_stands_in_the_one_that_the_prompt_opens():
    whole, _ = taught(OPENS_A_THOUGHT, "<think>\nthey ask\n</think>\n\nstir")
    assert whole.endswith("<|assistant|><think>\nthey ask\n</think>\n\nstir<|eos|>")


def test_a_taught_thought_takes_the_place_of_the_empty_one():
    whole, _ = taught(THINKING, "<think>they ask</think>stir")
    assert whole.endswith("assistant\n<think>they ask</think>stir<|im_end|>")
    whole, _ = taught(THINKING, "stir", chat_template_kwargs={"enable_thinking": False})
    assert whole.endswith("assistant\n<think>\n\n</think>\n\nstir<|im_end|>")


def test_what_a_model_wrote_in_channels_is_taught_by_its_answer():
    said = "<|channel|>analysis<|message|>they ask<|end|><|start|>assistant<|channel|>final<|message|>stir"
    assert taught(HARMONY, said)[0] == taught(HARMONY, "stir")[0]
