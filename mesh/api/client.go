package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// ErrUnreachable is what every call ends with when no daemon answers on the socket.
var ErrUnreachable = errors.New("no daemon answers")

// maxAnswer bounds what a Client reads: a status of 4096 members with their
// endpoints is larger than any request.
const maxAnswer = 64 << 20

// Client asks the daemon behind one socket. It may be used by several goroutines.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client for the socket at path; nothing is dialled yet.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{
		Timeout: requestTimeout + headerTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
				if err != nil {
					return nil, &dialError{err}
				}
				return conn, nil
			},
			MaxIdleConns: 1,
		},
	}}
}

// dialError marks errors that happened before anything was asked.
type dialError struct{ error }

func (e *dialError) Unwrap() error { return e.error }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for everything.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, http.MethodGet, pathStatus, nil)
}

// Connect adds or replaces targets.
func (c *Client) Connect(ctx context.Context, r ConnectRequest) error {
	return c.call(ctx, http.MethodPost, pathConnect, r, nil)
}

// Forget removes targets.
func (c *Client) Forget(ctx context.Context, r ForgetRequest) error {
	return c.call(ctx, http.MethodPost, pathForget, r, nil)
}

// Reserve asks for a place on the network.
func (c *Client) Reserve(ctx context.Context, r AttachRequest) (AttachPlan, error) {
	return ask[AttachPlan](ctx, c, http.MethodPost, pathReserve, r)
}

// Commit says that the interface of the plan is made.
func (c *Client) Commit(ctx context.Context, r CommitRequest) (Endpoint, error) {
	return ask[Endpoint](ctx, c, http.MethodPost, pathCommit, r)
}

// Cancel gives a reservation back.
func (c *Client) Cancel(ctx context.Context, r CommitRequest) error {
	return c.call(ctx, http.MethodPost, pathCancel, r, nil)
}

// Detach takes an endpoint off the network.
func (c *Client) Detach(ctx context.Context, r DetachRequest) (AttachPlan, error) {
	return ask[AttachPlan](ctx, c, http.MethodPost, pathDetach, r)
}

// Expose gives the host addresses on the overlay.
func (c *Client) Expose(ctx context.Context, r ExposeRequest) (Endpoint, error) {
	return ask[Endpoint](ctx, c, http.MethodPost, pathExpose, r)
}

// Hide takes them away.
func (c *Client) Hide(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathHide, nil, nil)
}

// Stop ends the daemon.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathStop, nil, nil)
}

// Reset removes everything and ends the daemon.
func (c *Client) Reset(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathReset, nil, nil)
}

// ask is call for an answer of type A.
func ask[A any](ctx context.Context, c *Client, method, path string, question any) (a A, err error) {
	err = c.call(ctx, method, path, question, &a)
	return a, err
}

// call sends question (nil: none) and reads the answer (nil: none wanted).
func (c *Client) call(ctx context.Context, method, path string, question, answer any) error {
	var body io.Reader
	if question != nil {
		b, err := json.Marshal(question)
		if err != nil {
			return fmt.Errorf("api: %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	status, b, err := c.exchange(ctx, method, path, body)
	if err != nil {
		return err
	}
	var head failure
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("api: %s: answer %d is no JSON object: %w", path, status, err)
	}
	switch {
	case head.Version != Version:
		return fmt.Errorf("api: %s: the daemon answers in version %d of the interface, this program knows %d: use the ripstop the daemon runs", path, head.Version, Version)
	case head.Error != nil:
		return head.Error
	case status != http.StatusOK:
		return fmt.Errorf("api: %s: HTTP status %d", path, status)
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("api: %s: answer: %w", path, err)
	}
	return nil
}

// Metrics asks for what a scraper gets.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	status, b, err := c.exchange(ctx, http.MethodGet, pathMetrics, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("api: %s: HTTP status %d: %.200s", pathMetrics, status, bytes.TrimSpace(b))
	}
	return string(b), err
}

// exchange sends one request and reads the whole answer.
func (c *Client) exchange(ctx context.Context, method, path string, body io.Reader) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://ripstop"+path, body)
	if err != nil {
		return 0, nil, fmt.Errorf("api: %s: %w", path, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var dial *dialError
		if errors.As(err, &dial) && ctx.Err() == nil {
			return 0, nil, fmt.Errorf("api: socket %s: %w (%w)", c.socket, ErrUnreachable, dial.error)
		}
		return 0, nil, fmt.Errorf("api: %s: %w", path, err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("api: %s: read answer: %w", path, err)
	}
	if len(answer) > maxAnswer {
		return 0, nil, fmt.Errorf("api: %s: the answer has more than %d bytes", path, maxAnswer)
	}
	return resp.StatusCode, answer, nil
}
