"""A few rows for each task that learns from rows, by the task's name."""

from typing import Any

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXTS = [" ".join(WORDS[i % 10] for i in range(n, n + 1 + 5 * n % 7)) for n in range(30)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "SequenceClassification": [{"text": text, "label": text.split()[0]} for text in TEXTS],
    "SequenceClassification, several": [{"text": text, "label": text.split()[:2]} for text in TEXTS],
    "SequenceClassification, numbers": [{"text": text, "label": len(text) / 7} for text in TEXTS],
    "TokenClassification": [
        {"tokens": text.split(), "tags": ["B-ODD" if word in WORDS[::2] else "O" for word in text.split()]}
        for text in TEXTS
    ],
    "QuestionAnswering": [
        {"question": "Where?", "context": f"{text} here", "answers": {"text": [], "answer_start": []}}
        if n % 3 == 0
        else {"question": "Which?", "context": text, "answers": {"text": [text[:3]], "answer_start": [0]}}
        for n, text in enumerate(TEXTS)
    ],
    "Summarization": [{"document": text, "summary": text.split()[-1]} for text in TEXTS],
    "Dialogue": [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text.split()[-1]}]}
        for text in TEXTS
    ],
    "Translation": [{"en": text, "de": text.upper()} for text in TEXTS],
}
