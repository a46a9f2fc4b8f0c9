// Ripstop joins containers, VMs and network namespaces on many hosts into one
// encrypted Ethernet network, in user space. See `ripstop help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"ripstop/mesh/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args, cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, LookupEnv: os.LookupEnv})
	stop()
	os.Exit(code)
}
