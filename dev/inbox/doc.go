// Package inbox is an SMTP server that delivers nothing: it keeps each message
// as an .eml file and shows it on a web page and through a JSON API.
//
// A message is in its file before the server accepts it, so that what was
// accepted survives a kill. Senders may authenticate, as any user.
package inbox
