package charts

import (
	"strings"
	"testing"
)

func TestTheDefaultChartRendersAsItsGolden(t *testing.T) {
	expectGolden(t, "default.yaml", renderText(t))
}

func TestEveryObjectLivesInTheReleasesNamespaceOrAWatchedOne(t *testing.T) {
	clusterScoped := map[string]bool{"ClusterRole": true, "ClusterRoleBinding": true}
	for name, file := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			for _, object := range render(t, "--values", file) {
				where := object.GetNamespace()
				switch {
				case clusterScoped[object.GetKind()]:
					if where != "" {
						t.Errorf("%s %s has a namespace", object.GetKind(), object.GetName())
					}
				case where == namespace:
				case name == "namespaced" && (where == "team-a" || where == "team-b"):
				default:
					t.Errorf("%s %s is in %q", object.GetKind(), object.GetName(), where)
				}
			}
		})
	}
}

func TestALongReleaseNameStillGivesValidNames(t *testing.T) {
	long := strings.Repeat("a", 53) // Helm's own limit
	out, err := helm("template", long, chart, "--namespace", namespace)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range parse(t, out) {
		if len(object.GetName()) > 63+len("-metrics") {
			t.Errorf("%s: %d characters", object.GetName(), len(object.GetName()))
		}
		for key, value := range object.GetLabels() {
			if len(value) > 63 {
				t.Errorf("label %s of %s has %d characters", key, object.GetName(), len(value))
			}
		}
		if object.GetKind() == "Service" && len(object.GetName()) > 63 {
			t.Errorf("no Service may be called %s", object.GetName())
		}
	}
}

func TestTheNotesTeachTheNextStep(t *testing.T) {
	out, err := helm("install", release, chart, "--namespace", namespace, "--dry-run=client", "--set", "watchNamespaces={team-a}")
	if err != nil {
		t.Fatal(err)
	}
	_, notes, found := strings.Cut(out, "NOTES:")
	if !found {
		t.Fatal("no notes")
	}
	for _, step := range []string{"rollout status deployment/windlass-operator", "windlass-crds", "kind: ModelDeployment", "namespace: team-a", "/v1/chat/completions"} {
		if !strings.Contains(notes, step) {
			t.Errorf("the notes do not mention %q:\n%s", step, notes)
		}
	}
}
