import json

from ptm_lightning.environment import differences, environment


def test_what_the_bits_depend_on() -> None:
    now = environment("bf16-mixed", 2)
    assert {"threads", "interop threads", "matrix products", "processor", "version of torch"} <= now.keys()
    assert (now["precision"], now["processes"]) == ("bf16-mixed", 2)
    assert json.loads(json.dumps(now)) == now
    assert differences(now, environment("bf16-mixed", 2)) == []
    changed = now | {"threads": now["threads"] + 2, "new": 1}
    assert differences(now, changed) == [
        f"threads: {now['threads']} then, {now['threads'] + 2} now",
        "new: unknown then, 1 now",
    ]
