// Package conntrack stands for github.com/mwitkow/go-conntrack, which counts and traces the connections of an HTTP client.
//
// CoreDNS links it through prometheus/common/config, whose client it never makes, and with it golang.org/x/net/trace. Here is
// what that package calls, and it dials as well, without counting.
package conntrack

import (
	"context"
	"net"
)

// Dial makes a connection.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Opt changes how.
type Opt func(*Dial)

// DialWithDialContextFunc sets who dials.
func DialWithDialContextFunc(dial Dial) Opt { return func(d *Dial) { *d = dial } }

// DialWithTracing does nothing.
func DialWithTracing() Opt { return func(*Dial) {} }

// DialWithName does nothing.
func DialWithName(string) Opt { return func(*Dial) {} }

// NewDialContextFunc is who dials.
func NewDialContextFunc(opts ...Opt) Dial {
	dial := (&net.Dialer{}).DialContext
	for _, opt := range opts {
		opt(&dial)
	}
	return dial
}
