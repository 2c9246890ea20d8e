package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// A verdict is what the two tools say of one object.
type verdict struct {
	kstatus status.Status
	argo    string
	message string
}

// expectations maps the first word of a file's name to the verdicts it stands for. Suspended objects are
// in progress for kstatus, which has no such state. Terminating ones Argo CD judges without our script.
var expectations = map[string]verdict{
	"current":     {kstatus: status.CurrentStatus, argo: "Healthy"},
	"inprogress":  {kstatus: status.InProgressStatus, argo: "Progressing"},
	"failed":      {kstatus: status.FailedStatus, argo: "Degraded"},
	"suspended":   {kstatus: status.InProgressStatus, argo: "Suspended"},
	"terminating": {kstatus: status.TerminatingStatus, argo: "Progressing"},
}

// A capture is one object as the API server returned it, and the verdicts its name demands.
type capture struct {
	file     string
	object   *unstructured.Unstructured
	expected verdict
}

// readDir reads every .json and .yaml file of dir, by name. An empty directory is an error, so that a
// capture that went wrong does not pass for a success.
func readDir(dir string) ([]capture, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var captures []capture
	for _, entry := range entries {
		extension := filepath.Ext(entry.Name())
		if extension != ".json" && extension != ".yaml" {
			continue
		}
		c, err := readFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		captures = append(captures, c)
	}
	if len(captures) == 0 {
		return nil, fmt.Errorf("%s holds no captured object (*.json, *.yaml)", dir)
	}
	sort.Slice(captures, func(i, j int) bool { return captures[i].file < captures[j].file })
	return captures, nil
}

func readFile(path string) (capture, error) {
	name := filepath.Base(path)
	word, _, _ := strings.Cut(name, "-")
	expected, known := expectations[word]
	if !known {
		return capture{}, fmt.Errorf("%s: the name must begin with the expected verdict: current-, inprogress-, failed-, suspended- or terminating-", name)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return capture{}, err
	}
	json, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return capture{}, fmt.Errorf("%s: %w", name, err)
	}
	// Through the API machinery's decoder, because kstatus wants integers where JSON has just numbers.
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(json); err != nil {
		return capture{}, fmt.Errorf("%s: %w", name, err)
	}
	if object.GetKind() != "ModelDeployment" || !strings.HasPrefix(object.GetAPIVersion(), "windlass.dev/") {
		return capture{}, fmt.Errorf("%s: is a %s %s, not a ModelDeployment of windlass.dev", name, object.GetAPIVersion(), object.GetKind())
	}
	return capture{file: name, object: object, expected: expected}, nil
}
