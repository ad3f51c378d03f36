package role

import (
	"errors"
	"net"
	"strings"
	"testing"
)

func TestReachable(t *testing.T) {
	for name, tc := range map[string]struct {
		listened, machine, want string
	}{
		"one address":           {"127.0.0.1:7", "127.0.0.1/8 10.0.0.2/24", "127.0.0.1:7"},
		"all, one to reach":     {"[::]:7", "127.0.0.1/8 ::1/128 10.0.0.2/24 fe80::1/64", "10.0.0.2:7"},
		"all of IPv4":           {"0.0.0.0:7", "127.0.0.1/8 10.0.0.2/24", "10.0.0.2:7"},
		"IPv4 before IPv6":      {"[::]:7", "10.0.0.2/24 fd00::2/64", "10.0.0.2:7"},
		"IPv6 only":             {"[::]:7", "::1/128 fd00::2/64 fe80::1/64", "[fd00::2]:7"},
		"several":               {"[::]:7", "10.0.0.2/24 10.1.0.2/24", "addresses 10.0.0.2, 10.1.0.2"},
		"several of IPv6":       {"[::]:7", "fd00::2/64 fd01::2/64", "fd00::2, fd01::2"},
		"none":                  {"[::]:7", "127.0.0.1/8 fe80::1/64", "no address that others"},
		"unknown":               {"[::]:7", "", "no such device"},
		"not an address at all": {"7", "10.0.0.2/24", "missing port"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := reachable(tc.listened, func() (all []net.Addr, err error) {
				if tc.machine == "" {
					return nil, errors.New("no such device")
				}
				for text := range strings.FieldsSeq(tc.machine) {
					ip, n, err := net.ParseCIDR(text)
					if err != nil {
						return nil, err
					}
					all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
				}
				return all, nil
			})
			if err != nil {
				got = err.Error()
				if !strings.Contains(got, tc.want) {
					t.Errorf("got the error %q, want one with %q", got, tc.want)
				}
				return
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
