// Command labtool is what the lab (scripts/kube/lab) needs beside Kubernetes itself.
//
//	labtool pki      writes a cluster's certificates and kubeconfig files
//	labtool netpol   enforces the NetworkPolicy objects on one node
//	labtool volumes  makes and removes persistent volumes
//	labtool pause    holds the namespaces of a pod open
//
// It is a test's helper: nothing of it is meant for a cluster that others can reach.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	verbs := map[string]func(*flag.FlagSet, []string) error{
		"pki": pki, "netpol": netpol, "volumes": volumes, "pause": pause,
	}
	verb := verbs[os.Args[1]]
	if verb == nil {
		usage()
	}
	if err := verb(flag.NewFlagSet("labtool "+os.Args[1], flag.ExitOnError), os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "labtool %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: labtool pki|netpol|volumes|pause [flags]")
	os.Exit(2)
}

// pause waits for the signal to end. Where the containers of a pod share their processes it
// is the first of them, and collects those that nobody else does.
func pause(*flag.FlagSet, []string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			break
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil) // none is left, or all are well
		}
	}
	return nil
}
