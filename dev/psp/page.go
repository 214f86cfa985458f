package psp

import (
	"bytes"
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"time"
)

//go:embed templates
var templateFiles embed.FS

var pages = template.Must(template.ParseFS(templateFiles, "templates/*.html"))

// style is the pages' common style sheet.
var style = func() template.CSS {
	css, err := templateFiles.ReadFile("templates/layout.css")
	if err != nil {
		panic(err) // it is embedded
	}
	return template.CSS(css) //nolint:gosec // this package's own file
}()

// shownRows is how many intents and effects the page shows.
const shownRows = 100

func (s *Server) showIntents(w http.ResponseWriter, _ *http.Request) {
	type intentRow struct{ ID, Order, Status, Amount, Captured, Refunded, Method, Created string }
	type effectRow struct {
		Seq                               int64
		Kind, Amount, Order, Intent, Time string
	}
	var data struct {
		Style   template.CSS
		Total   int
		Intents []intentRow
		Effects []effectRow
	}
	data.Style = style
	s.mu.Lock()
	data.Total = len(s.state.intents)
	for _, in := range slices.Backward(s.state.intents) {
		if len(data.Intents) == shownRows {
			break
		}
		row := intentRow{
			ID: in.ID, Order: in.Metadata["order_id"], Status: string(in.Status),
			Amount: money(in.Amount, in.Currency), Captured: money(in.Received, in.Currency), Refunded: money(in.Refunded, in.Currency),
			Method: in.PaymentMethod, Created: time.Unix(in.Created, 0).UTC().Format("2006-01-02 15:04:05"),
		}
		if last := in.latest(); row.Method == "" && last != nil {
			row.Method = last.PaymentMethod
		}
		data.Intents = append(data.Intents, row)
	}
	for _, e := range slices.Backward(s.state.effects) {
		if len(data.Effects) == shownRows {
			break
		}
		data.Effects = append(data.Effects, effectRow{
			e.Seq, string(e.Kind), money(e.Amount, e.Currency), e.OrderID, e.Intent,
			e.Time.Format("15:04:05.000"),
		})
	}
	s.mu.Unlock()
	s.render(w, "intents.html", data)
}

func (s *Server) render(w http.ResponseWriter, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		s.log.Error("render page", "page", name, "error", err)
		http.Error(w, "page not available", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if _, err := page.WriteTo(w); err != nil {
		s.log.Debug("page not delivered", "page", name, "error", err)
	}
}

// showChallenge is the bank's page of a 3-D Secure payment.
func (s *Server) showChallenge(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	in, err := s.challenged(r.PathValue("id"), r.FormValue("client_secret"))
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	data := struct {
		Style                                template.CSS
		Open                                 bool
		Amount, Order, Last4, Secret, Status string
	}{
		Style: style, Open: in.Status == requiresAction, Amount: money(in.Amount, in.Currency),
		Order: in.Metadata["order_id"], Secret: in.ClientSecret, Status: string(in.Status),
	}
	if method := paymentMethods[in.PaymentMethod]; method != nil {
		data.Last4 = method.last4
	}
	s.render(w, "challenge.html", data)
}

// answerChallenge takes the shopper's decision and sends them back to the shop.
func (s *Server) answerChallenge(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	decision := r.PostFormValue("decision")
	if decision != "approve" && decision != "decline" {
		http.Error(w, "decision must be approve or decline", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	in, err := s.challenged(r.PathValue("id"), r.PostFormValue("client_secret"))
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err := s.Authenticate(in.ID, decision == "approve"); err != nil && !errors.Is(err, errNoChallenge) {
		s.log.Error("authenticate payment", "intent", in.ID, "error", err)
		http.Error(w, "the decision could not be recorded", http.StatusInternalServerError)
		return
	}
	back, err := url.Parse(in.ReturnURL)
	if err != nil || in.ReturnURL == "" {
		http.Redirect(w, r, "/3ds/"+in.ID+"?client_secret="+in.ClientSecret, http.StatusSeeOther)
		return
	}
	outcome := "succeeded"
	if decision == "decline" {
		outcome = "failed"
	}
	q := back.Query()
	q.Set("payment_intent", in.ID)
	q.Set("payment_intent_client_secret", in.ClientSecret)
	q.Set("redirect_status", outcome)
	back.RawQuery = q.Encode()
	http.Redirect(w, r, back.String(), http.StatusSeeOther)
}

// errNoChallenge says that an intent doesn't wait for the shopper's approval.
var errNoChallenge = errors.New("psp: intent waits for no approval")

// challenged is a copy of the intent whose client secret is given. mu is held.
func (s *Server) challenged(id, secret string) (*intent, error) {
	in, ok := s.state.intent[id]
	if !ok || subtle.ConstantTimeCompare([]byte(secret), []byte(in.ClientSecret)) != 1 {
		return nil, errors.New("no such payment")
	}
	return in.clone(), nil
}

// Authenticate answers the 3-D Secure question of an intent in requires_action
// as the shopper would on the bank's page. It fails for any other intent.
func (s *Server) Authenticate(intentID string, approve bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.state.intent[intentID]
	if !ok {
		return fmt.Errorf("psp: no intent %q", intentID)
	}
	if known.Status != requiresAction {
		return fmt.Errorf("%w: %s is %s", errNoChallenge, intentID, known.Status)
	}
	in, method, c := known.clone(), paymentMethods[known.PaymentMethod], &call{op: "authenticate"}
	if approve {
		return s.commit(s.authorize(c, in, method, true))
	}
	const code = "payment_intent_authentication_failure"
	return s.commit(s.refuse(c, in, apiError{
		Type: typeInvalidRequest, Code: code, DocURL: docURL(code), PaymentMethod: method.wire(in.Created),
		Message: "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new PaymentMethod to attempt to fulfill this PaymentIntent again.",
	}))
}
