package gateway

import (
	"net/http"

	"google.golang.org/protobuf/reflect/protoreflect"

	"bookworm/internal/fault"
	accessv1 "bookworm/internal/gen/bookworm/access/v1"
	chatv1 "bookworm/internal/gen/bookworm/chat/v1"
	"bookworm/internal/rpc"
)

// agentRules are the paths of other people's agents, which the chat context
// serves, and the procedure whose rule says who may use them. MCP has none: its
// tools call procedures with the caller's own token, and each has its rule. The
// card of the shop's own agent is for everybody.
var agentRules = map[string]protoreflect.MethodDescriptor{
	"/mcp":                         nil,
	"/a2a":                         chatv1.File_bookworm_chat_v1_chat_proto.Services().ByName("ChatService").Methods().ByName("SendMessage"),
	"/.well-known/agent-card.json": nil,
}

// agentClasses are what those paths are counted with: most that agents ask by MCP
// is a search, and what they say by A2A is talk.
var agentClasses = map[string]accessv1.Limit{
	"/mcp":                         accessv1.Limit_LIMIT_SEARCH,
	"/a2a":                         accessv1.Limit_LIMIT_CHAT,
	"/.well-known/agent-card.json": accessv1.Limit_LIMIT_BROWSE,
}

func isAgentPath(path string) bool {
	_, ok := agentRules[path]
	return ok
}

// serveAgent hands a request of MCP or A2A on. A web page may send one only when
// it is among the origins that may call: the MCP specification asks for it, so
// that a page cannot reach a shop on the reader's own machine by DNS rebinding.
func (g *gateway) serveAgent(w http.ResponseWriter, r *http.Request) {
	g.named(r, r.URL.Path)
	if r.Header.Get("Origin") != "" && (g.cors == nil || !g.cors.OriginAllowed(r)) {
		g.refuse(w, r, fault.New(fault.ReasonAccessDenied, "Pages of this origin may not call."))
		return
	}
	asked := agentClasses[r.URL.Path]
	caller, f := g.access(w, r, agentRules[r.URL.Path], g.counter.classes.byRule[asked])
	if f == nil {
		_, f = g.settle(w, r, rpc.MaxRequest)
	}
	var end func()
	if f == nil {
		// What is said by A2A waits for the model, and a GET of MCP for what may come.
		streaming := asked == accessv1.Limit_LIMIT_CHAT || r.Method == http.MethodGet && asked == accessv1.Limit_LIMIT_SEARCH
		end, f = g.begin(r, streaming, asked, callerOf(r, caller))
	}
	if f != nil {
		g.refuse(w, r, f)
		return
	}
	defer end()
	out := r.Clone(r.Context())
	out.Header.Del("Origin") // it has been judged; the service takes none
	g.agents.ServeHTTP(w, out)
}
