package shopper

import (
	"context"
	"net/http"

	compliancev1 "bookworm/internal/gen/bookworm/compliance/v1"
)

const privacy = "/api/v1/privacy"

// Export asks for all data the shop has of the shopper.
func (s *Shopper) Export(ctx context.Context) (*compliancev1.DataRequest, error) {
	request := &compliancev1.DataRequest{}
	_, err := s.Do(ctx, http.MethodPost, privacy+"/exports", &compliancev1.RequestExportRequest{}, request)
	return request, err
}

// Erase asks for the end of all data the shop has of the shopper.
func (s *Shopper) Erase(ctx context.Context) (*compliancev1.DataRequest, error) {
	request := &compliancev1.DataRequest{}
	_, err := s.Do(ctx, http.MethodPost, privacy+"/erasures", &compliancev1.RequestErasureRequest{Confirm: true}, request)
	return request, err
}

// DataRequest returns one of the shopper's requests.
func (s *Shopper) DataRequest(ctx context.Context, id string) (*compliancev1.DataRequest, error) {
	request := &compliancev1.DataRequest{}
	_, err := s.Do(ctx, http.MethodGet, privacy+"/requests/"+id, nil, request)
	return request, err
}

// AwaitDataRequest waits until a request is in a state.
func (s *Shopper) AwaitDataRequest(ctx context.Context, id string, state compliancev1.DataRequest_State) (*compliancev1.DataRequest, error) {
	return await(ctx, s.pause(), func(ctx context.Context) (*compliancev1.DataRequest, error) { return s.DataRequest(ctx, id) },
		func(r *compliancev1.DataRequest) bool { return r.GetState() == state })
}

// Download returns what an export collected.
func (s *Shopper) Download(ctx context.Context, id string) (*compliancev1.DownloadExportResponse, error) {
	export := &compliancev1.DownloadExportResponse{}
	_, err := s.Do(ctx, http.MethodGet, privacy+"/exports/"+id+":download", nil, export)
	return export, err
}
