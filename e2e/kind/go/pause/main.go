// Command pause keeps a pod's namespaces alive, and collects children that lost their parents, until it is told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	arrived := make(chan os.Signal, 8)
	signal.Notify(arrived, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for (<-arrived) == syscall.SIGCHLD {
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
