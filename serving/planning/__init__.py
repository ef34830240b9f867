"""The plan: what of a model one card carries, made before anything is loaded, checked, and put into words.

profile.py        the YAML files: what a card is and what is asked of it, where a model comes from
present.py        the card that is here, and how much of it there is to plan with
cards.py          which of a machine's cards serve
asked.py          the user's own engine arguments (asked_speculation.py: `--speculative-config`)
planner.py        profile, model, checkpoint and hardware → plan
sizing.py         what one choice of settings amounts to on the card
policy.py         what each policy wishes for, and what it gives up first
memory.py         bytes of each part (speculation.py: of drafting)
layout.py         what the weights leave free between them, laid out on paper as torch's allocator does it (allocator.py)
calibration.py    what a card's own first start has taught of them
adapters.py       LoRA folders; heads.py: EAGLE3 heads; video.py: frames
verdict.py        what a plan refuses, gives up and promises
plan.py           the plan itself: data
planned_args.py   the plan → vLLM's arguments; engine_args.py: those → argv, and back
advice.py         what would fit instead
describe.py       plans in words for a terminal
"""
