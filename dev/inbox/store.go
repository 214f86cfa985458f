package inbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-message/textproto"
	"github.com/google/uuid"
)

const extension = ".eml"

// store keeps each message in a file of its own, named so that names sort by arrival.
type store struct {
	dir string

	mu       sync.Mutex
	messages []Summary // oldest first
}

// openStore reads the headers of the messages in dir.
func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	st := &store{dir: dir}
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("list messages: %w", err)
	}
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), extension)
		if !ok {
			continue
		}
		content, err := os.ReadFile(st.path(id))
		if err != nil {
			return nil, fmt.Errorf("read message: %w", err)
		}
		st.messages = append(st.messages, parse(id, content).Summary)
	}
	return st, nil
}

func (st *store) path(id string) string { return filepath.Join(st.dir, id+extension) }

// add keeps a message under the trace headers that a mail server puts in front:
// they hold the envelope.
func (st *store) add(from string, to []string, host string, content []byte) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("name message: %w", err)
	}
	var eml bytes.Buffer
	fmt.Fprintf(&eml, "Return-Path: <%s>\r\n", from)
	for _, address := range to {
		fmt.Fprintf(&eml, "Delivered-To: %s\r\n", address)
	}
	fmt.Fprintf(&eml, "Received: from %s by inbox.localhost with ESMTP id %s;\r\n\t%s\r\n",
		strings.Map(printable, host), id, time.Now().UTC().Format(time.RFC1123Z))
	if _, err := textproto.ReadHeader(bufio.NewReader(bytes.NewReader(content))); err != nil {
		eml.WriteString("\r\n") // what starts without a readable header is all body
	}
	eml.Write(content)

	st.mu.Lock()
	defer st.mu.Unlock()
	// By way of a rename: a kill leaves a whole message or none.
	unfinished := filepath.Join(st.dir, id.String()+".new")
	if err := os.WriteFile(unfinished, eml.Bytes(), 0o600); err != nil {
		return errors.Join(fmt.Errorf("write message: %w", err), os.Remove(unfinished))
	}
	if err := os.Rename(unfinished, st.path(id.String())); err != nil {
		return fmt.Errorf("keep message: %w", err)
	}
	st.messages = append(st.messages, parse(id.String(), eml.Bytes()).Summary)
	return nil
}

// printable drops what could end a header line early.
func printable(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}

// list returns the messages delivered to the address and with the text in
// their subject, newest first. Empty matches all.
func (st *store) list(to, subject string) []Summary {
	st.mu.Lock()
	defer st.mu.Unlock()
	found := []Summary{}
	for _, m := range slices.Backward(st.messages) {
		if to != "" && !holdsAddress(m.To, to) {
			continue
		}
		if strings.Contains(strings.ToLower(m.Subject), strings.ToLower(subject)) {
			found = append(found, m)
		}
	}
	return found
}

var errNotFound = errors.New("inbox: no such message")

// source returns the file of a message.
func (st *store) source(id string) ([]byte, error) {
	st.mu.Lock()
	known := slices.ContainsFunc(st.messages, func(m Summary) bool { return m.ID == id })
	st.mu.Unlock()
	if !known {
		return nil, errNotFound
	}
	content, err := os.ReadFile(st.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotFound // cleared meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("read message: %w", err)
	}
	return content, nil
}

// clear removes all messages.
func (st *store) clear() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.messages) > 0 {
		last := st.messages[len(st.messages)-1]
		if err := os.Remove(st.path(last.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove message: %w", err)
		}
		st.messages = st.messages[:len(st.messages)-1]
	}
	return nil
}
