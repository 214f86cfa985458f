package inbox

import (
	"encoding/json"
	"testing"
)

// FuzzParse holds that no message, however broken, stops the inbox.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "\r\n", "Subject: x\r\n\r\nbody", "Subject: =?utf-8?q?caf=C3=A9?=\r\nFrom: a@b.example\r\n\r\n",
		"Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b--\r\n",
		"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Disposition: attachment; filename*=utf-8''x\r\n\r\nx",
		"Content-Type: text/plain; charset=koi8-r\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
		"no header at all", "Date: yesterday\r\nReceived: from x; Mon, 02 Jan 2006 15:04:05 +0000\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		m := parse("id", content)
		if m.ID != "id" || m.To == nil || m.Headers == nil || m.Attachments == nil {
			t.Errorf("message = %+v", m)
		}
		if _, err := json.Marshal(m); err != nil {
			t.Errorf("encode: %v", err)
		}
	})
}
