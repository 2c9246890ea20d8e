// Kstatus prints what the tools of a GitOps user make of captured ModelDeployments: the kstatus library
// that Flux links, and the Argo CD health check that ships in deploy/gitops.
//
//	kstatus [-lua FILE] DIR
//
// DIR holds objects as JSON or YAML, one a file, named <expected>-<what>.yaml. It exits 1 when a verdict
// is not the expected one, and changes nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"text/tabwriter"
)

func main() {
	lua := flag.String("lua", "../../deploy/gitops/argocd/health.lua", "the Argo CD health check")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: kstatus [-lua FILE] DIR")
		os.Exit(2)
	}
	ok, err := report(flag.Arg(0), *lua)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// report prints the table and says whether every verdict is the expected one.
func report(dir, luaFile string) (bool, error) {
	script, err := os.ReadFile(luaFile)
	if err != nil {
		return false, err
	}
	captures, err := readDir(dir)
	if err != nil {
		return false, err
	}
	ok := true
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "OBJECT\tKSTATUS\tARGO CD\tRESULT\tMESSAGE")
	for _, c := range captures {
		got, err := judge(c.object, string(script))
		if err != nil {
			return false, fmt.Errorf("%s: %w", c.file, err)
		}
		result := "ok"
		if got.kstatus != c.expected.kstatus || got.argo != c.expected.argo {
			ok = false
			result = fmt.Sprintf("WANTED %s, %s", c.expected.kstatus, c.expected.argo)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", c.file, got.kstatus, got.argo, result, got.message)
	}
	return ok, table.Flush()
}
