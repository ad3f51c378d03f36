package role

import (
	"fmt"
	"net"
	"strings"
)

// reachable is where others find what listens on an address: there, or if it listens on all
// addresses of a machine, on the only one that is not the machine's own, of IPv4 if it can be.
// Containers learn their address no earlier than this.
func reachable(listened string, all func() ([]net.Addr, error)) (string, error) {
	host, port, err := net.SplitHostPort(listened)
	if err != nil {
		return "", fmt.Errorf("advertise %s: %w", listened, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listened, nil
	}
	addresses, err := all()
	if err != nil {
		return "", fmt.Errorf("advertise %s: %w", listened, err)
	}
	var four, six []string
	for _, a := range addresses {
		n, ok := a.(*net.IPNet)
		switch {
		case !ok || !n.IP.IsGlobalUnicast():
		case n.IP.To4() != nil:
			four = append(four, n.IP.String())
		default:
			six = append(six, n.IP.String())
		}
	}
	if len(four) == 0 {
		four = six
	}
	switch len(four) {
	case 1:
		return net.JoinHostPort(four[0], port), nil
	case 0:
		return "", fmt.Errorf("advertise %s: this machine has no address that others can reach; "+
			"--listen on 127.0.0.1 if there are none", listened)
	}
	return "", fmt.Errorf("advertise %s: this machine has the addresses %s; say by --advertise "+
		"which one others use", listened, strings.Join(four, ", "))
}
