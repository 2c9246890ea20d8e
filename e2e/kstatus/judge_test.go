package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const luaFile = "../../deploy/gitops/argocd/health.lua"

func healthScript(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile(luaFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(script)
}

// The committed fixtures, and what the end-to-end suite captured, where it names its folder.
func TestObjectsAreReadAsTheirNamesSay(t *testing.T) {
	script := healthScript(t)
	dirs := []string{"fixtures"}
	if dir := os.Getenv("WINDLASS_STATUS_DIR"); dir != "" {
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		captures, err := readDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range captures {
			t.Run(c.file, func(t *testing.T) {
				got, err := judge(c.object, script)
				if err != nil {
					t.Fatal(err)
				}
				if got.kstatus != c.expected.kstatus {
					t.Errorf("kstatus says %s, expected %s", got.kstatus, c.expected.kstatus)
				}
				if got.argo != c.expected.argo {
					t.Errorf("Argo CD says %s (%s), expected %s", got.argo, got.message, c.expected.argo)
				}
				if got.message == "" {
					t.Error("the health check gives no message")
				}
			})
		}
	}
}

// Every word must be exercised, or a change in its meaning would go unseen.
func TestEveryExpectationHasAFixture(t *testing.T) {
	captures, err := readDir("fixtures")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[verdict]bool{}
	for _, c := range captures {
		seen[c.expected] = true
	}
	for word, expected := range expectations {
		if !seen[expected] {
			t.Errorf("no fixture begins with %q", word)
		}
	}
}

// Why the CRD gives every object `status.observedGeneration: -1`: without it kstatus takes a fresh object for done.
func TestWithoutTheDefaultStatusAFreshObjectWouldReadAsCurrent(t *testing.T) {
	c, err := readFile("fixtures/inprogress-just-created.yaml")
	if err != nil {
		t.Fatal(err)
	}
	unstructured.RemoveNestedField(c.object.Object, "status")
	result, err := status.Compute(c.object)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status != status.CurrentStatus {
		t.Errorf("kstatus now says %s of an object without status: the default may no longer be needed", result.Status)
	}
	// The health check does not depend on the default.
	got, _, err := argoHealth(c.object, healthScript(t))
	if err != nil {
		t.Fatal(err)
	}
	if got != "Progressing" {
		t.Errorf("Argo CD says %s of an object without status, expected Progressing", got)
	}
}

func TestAHealthCheckThatNeverEndsIsAnError(t *testing.T) {
	c, err := readFile("fixtures/inprogress-just-created.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := argoHealth(c.object, "while true do end"); err == nil {
		t.Error("an endless script was not ended")
	}
}

func TestANameWithoutAnExpectedVerdictIsRefused(t *testing.T) {
	text, err := os.ReadFile("fixtures/current-ready.yaml")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ready.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(path); err == nil || !strings.Contains(err.Error(), "the name must begin with") {
		t.Errorf("a file whose name demands nothing gave: %v", err)
	}
}

func TestAnEmptyFolderIsRefused(t *testing.T) {
	if _, err := readDir(t.TempDir()); err == nil {
		t.Error("a folder without captures was accepted")
	}
}
