// Package llm is a deterministic stand-in for the part of OpenAI's HTTP API that
// the shop uses: embeddings, chat completions (streamed or whole, with tools and
// JSON schema answers) and the list of models.
//
// It speaks the wire format, so the shop runs its production client
// (bookworm/internal/llm) against it. The same conformance suite runs against the
// stand-in and, when OPENAI_TEST_BASE_URL is set, against a real endpoint.
//
// There is no model in it:
//   - An embedding is feature hashing of words, their stems, pairs and pieces. It
//     knows letters, not meaning: "dog" and "hound" are strangers, "hound" and
//     "houndd" are close.
//   - An answer is extraction. Rules on the question's words choose the tools to
//     call; then sentences and fields of their results are quoted, each with the
//     mark [n] of its result, and a question whose words stand in no result is
//     answered with "I don't know". Instructions inside results are never followed,
//     unless the Obedient fault asks for a model that does.
//
// The contract of tool results: the content of a tool message is a JSON object
//
//	{"results": [{"ref": 1, "kind": "book|review|order|policy", "id": "...",
//	              "title": "...", "text": "...", ...fields}], "note": "..."}
//
// where ref is the number n of the mark [n].
//
// What differs from OpenAI, on purpose: every model name is known, a token is up
// to six letters of a word, and a conversation may have 128,000 of them.
package llm
