package inbox

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"
)

//go:embed templates
var templateFiles embed.FS

var pages = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.showList)
	mux.HandleFunc("GET /messages/{id}", s.showMessage)
	mux.HandleFunc("GET /messages/{id}/html", s.serveHTML)
	mux.HandleFunc("GET /messages/{id}/source", s.serveSource)
	mux.HandleFunc("GET /api/messages", func(w http.ResponseWriter, r *http.Request) {
		s.writeJSON(w, s.Messages(r.FormValue("to"), r.FormValue("subject")))
	})
	mux.HandleFunc("GET /api/messages/{id}", func(w http.ResponseWriter, r *http.Request) {
		if m, ok := s.find(w, r); ok {
			s.writeJSON(w, m)
		}
	})
	mux.HandleFunc("DELETE /api/messages", s.deleteAll)
	mux.HandleFunc("GET /_dev/faults", s.serveFaults)
	mux.HandleFunc("POST /_dev/faults", s.injectFault)
	mux.HandleFunc("DELETE /_dev/faults", s.clearFaults)
	return mux
}

// find answers the request itself when there is no such message.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (Message, bool) {
	m, err := s.Message(r.PathValue("id"))
	if err == nil {
		return m, true
	}
	s.refuse(w, err)
	return Message{}, false
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	if errors.Is(err, errNotFound) {
		http.Error(w, "no such message", http.StatusNotFound)
		return
	}
	s.log.Error("serve message", "error", err)
	http.Error(w, "the message could not be read", http.StatusInternalServerError)
}

func (s *Server) deleteAll(w http.ResponseWriter, _ *http.Request) {
	if err := s.Clear(); err != nil {
		s.refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) showList(w http.ResponseWriter, r *http.Request) {
	to, subject := r.FormValue("to"), r.FormValue("subject")
	s.render(w, "list.html", struct {
		To, Subject, SMTP string
		Messages          []Summary
	}{to, subject, s.address, s.Messages(to, subject)})
}

func (s *Server) showMessage(w http.ResponseWriter, r *http.Request) {
	if m, ok := s.find(w, r); ok {
		s.render(w, "message.html", m)
	}
}

// serveHTML is the inside of the message page's frame. The policy keeps it from
// running scripts and from telling anyone that it was read.
func (s *Server) serveHTML(w http.ResponseWriter, r *http.Request) {
	m, ok := s.find(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Security-Policy", "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	s.write(w, []byte(m.HTML))
}

func (s *Server) serveSource(w http.ResponseWriter, r *http.Request) {
	source, err := s.store.source(r.PathValue("id"))
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	s.write(w, source)
}

func (s *Server) render(w http.ResponseWriter, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		s.log.Error("render page", "page", name, "error", err)
		http.Error(w, "page not available", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'")
	s.write(w, page.Bytes())
}

func (s *Server) writeJSON(w http.ResponseWriter, body any) {
	raw, err := json.Marshal(body)
	if err != nil {
		s.log.Error("encode answer", "error", err)
		http.Error(w, "answer not available", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.write(w, raw)
}

func (s *Server) write(w http.ResponseWriter, body []byte) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if _, err := w.Write(body); err != nil { //nolint:gosec // pages are escaped; the mail itself is sandboxed by its policy
		s.log.Debug("answer not delivered", "error", err)
	}
}

// Recipients is To for the page.
func (m Summary) Recipients() string { return strings.Join(m.To, ", ") }

// When is Date for the page.
func (m Summary) When() string { return m.Date.Format("2006-01-02 15:04:05") }
