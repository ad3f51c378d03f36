//go:build !linux

package localcluster

import "net"

// reserve finds a TCP port for this process's children. Nothing keeps it free.
func reserve(address string) (taken string, release func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	return l.Addr().String(), func() {}, l.Close()
}
