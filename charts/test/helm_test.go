// Package charts checks what the Helm charts render and what the samples say. It runs the real helm and
// Kubernetes' own rules, needs no cluster, and is started by charts/check, which provides both tools:
// $HELM, the helm program, and $WINDLASS_SCHEMAS, the API schemas of the supported Kubernetes versions.
package charts

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	chart     = "../windlass"
	crdsChart = "../windlass-crds"
	release   = "windlass"
	namespace = "windlass-system"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// helm runs the helm program and returns what it printed, or its complaint as the error.
func helm(arguments ...string) (string, error) {
	program := os.Getenv("HELM")
	if program == "" {
		program = "helm"
	}
	var out, complaint bytes.Buffer
	command := exec.Command(program, arguments...)
	command.Stdout, command.Stderr = &out, &complaint
	if err := command.Run(); err != nil {
		return "", errors.New(err.Error() + ": " + complaint.String())
	}
	return out.String(), nil
}

// renderText renders the chart windlass as the API server would get it.
func renderText(t *testing.T, arguments ...string) string {
	t.Helper()
	out, err := helm(append([]string{"template", release, chart, "--namespace", namespace}, arguments...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func render(t *testing.T, arguments ...string) []*unstructured.Unstructured {
	t.Helper()
	return parse(t, renderText(t, arguments...))
}

// parse splits a YAML stream into objects. A key that stands twice is an error, as for the API server.
func parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var objects []*unstructured.Unstructured
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		json, err := yaml.YAMLToJSONStrict(document)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		if string(json) == "null" {
			continue
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(json); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		objects = append(objects, object)
	}
}

// find gives the one object of a kind and name, as its typed form.
func find[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) *T {
	t.Helper()
	for _, object := range objects {
		if object.GetKind() == kind && object.GetName() == name {
			return typed[T](t, object)
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// typed converts strictly: a field that the type does not have is an error.
func typed[T any](t *testing.T, object *unstructured.Unstructured) *T {
	t.Helper()
	into := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, into, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return into
}

// valuesFiles are the sets of values that every check runs on, by name.
func valuesFiles(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(chart, "ci", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no values files: %v", err)
	}
	files := map[string]string{}
	for _, path := range paths {
		files[strings.TrimSuffix(filepath.Base(path), ".yaml")] = path
	}
	return files
}

// expectGolden compares with a committed file, or writes it with -update.
func expectGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("golden", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s; if the change is wanted: charts/check --update, and read the diff.\nGot:\n%s", path, got)
	}
}
