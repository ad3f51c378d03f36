package localcluster

import (
	"fmt"
	"net"
	"syscall"
)

// reserve keeps a TCP port of this process's children: it stays theirs while none of them
// runs, and connections to it are refused then. The socket is bound and does not listen,
// which lets others that reuse addresses, as Go's listeners do, bind and listen.
func reserve(address string) (taken string, release func(), err error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return "", nil, err
	}
	family, to := syscall.AF_INET6, syscall.Sockaddr(nil)
	if ip := a.IP.To4(); ip != nil {
		family, to = syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}
	} else {
		to = &syscall.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("make a socket: %w", err)
	}
	release = func() { _ = syscall.Close(fd) }
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, to)
	}
	if err == nil {
		to, err = syscall.Getsockname(fd)
	}
	if err != nil {
		release()
		return "", nil, fmt.Errorf("reserve %s: %w", address, err)
	}
	switch to := to.(type) {
	case *syscall.SockaddrInet4:
		a.Port = to.Port
	case *syscall.SockaddrInet6:
		a.Port = to.Port
	}
	return a.String(), release, nil
}
