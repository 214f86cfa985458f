package psp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// change is everything one request changed: one line of the journal, so that a
// killed process leaves all of it or nothing.
type change struct {
	Intent  *intent  `json:"intent,omitempty"` // its state after the change
	Refund  *refund  `json:"refund,omitempty"`
	Events  []event  `json:"events,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
	Answer  *answer  `json:"answer,omitempty"`
	// Delivered is the id of an event that the webhook endpoint has taken.
	Delivered string `json:"delivered,omitempty"`
}

// state is the journal applied, in memory.
type state struct {
	intents []*intent // in order of creation
	intent  map[string]*intent
	refunds []*refund
	events  []event
	pending []event // not delivered yet
	effects []Effect
	answers map[string]answer
}

func newState() state {
	return state{intent: map[string]*intent{}, answers: map[string]answer{}}
}

func (st *state) apply(ch change) {
	if in := ch.Intent; in != nil {
		if known, ok := st.intent[in.ID]; ok {
			*known = *in
		} else {
			st.intent[in.ID] = in
			st.intents = append(st.intents, in)
		}
	}
	if ch.Refund != nil {
		st.refunds = append(st.refunds, ch.Refund)
	}
	st.events = append(st.events, ch.Events...)
	st.pending = append(st.pending, ch.Events...)
	if ch.Delivered != "" {
		st.pending = slices.DeleteFunc(st.pending, func(e event) bool { return e.ID == ch.Delivered })
	}
	st.effects = append(st.effects, ch.Effects...)
	if ch.Answer != nil {
		st.answers[ch.Answer.Key] = *ch.Answer
	}
}

// journal is an append-only file of changes as JSON lines. A line is one write:
// it survives a kill of the process, not a loss of power.
type journal struct {
	file *os.File
	size int64
}

// openJournal reads the journal in dir, calling apply for each change, and opens
// it for appending. A torn last line, left by a kill during a write, is cut off.
func openJournal(dir string, apply func(change)) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "journal.jsonl"), os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // in the data folder
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	end, err := replay(file, apply)
	if err == nil {
		err = file.Truncate(end)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read journal: %w", err), file.Close())
	}
	return &journal{file: file, size: end}, nil
}

// replay returns the offset after the last whole line.
func replay(r io.Reader, apply func(change)) (int64, error) {
	lines := bufio.NewReaderSize(r, 1<<16)
	var end int64
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return 0, err
		}
		var ch change
		if err := json.Unmarshal(bytes.TrimSpace(line), &ch); err != nil {
			return 0, fmt.Errorf("line at byte %d: %w", end, err)
		}
		apply(ch)
		end += int64(len(line))
	}
}

func (j *journal) append(ch change) error {
	line, err := json.Marshal(ch)
	if err != nil {
		return fmt.Errorf("encode change: %w", err)
	}
	n, err := j.file.WriteAt(append(line, '\n'), j.size)
	if err != nil {
		// What was written of the line must not stay in front of the next one.
		return errors.Join(fmt.Errorf("write journal: %w", err), j.file.Truncate(j.size))
	}
	j.size += int64(n)
	return nil
}

func (j *journal) close() error { return j.file.Close() }
