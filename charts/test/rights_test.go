package charts

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Rights that no chart of ours may grant, whatever for: reading Secrets, entering pods, becoming others.
var (
	forbiddenResources = []string{"*", "secrets", "nodes", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "serviceaccounts/token"}
	forbiddenVerbs     = []string{"*", "escalate", "bind", "impersonate", "deletecollection"}
)

// A role is a ClusterRole or a Role.
type role struct {
	name, namespace string // no namespace: a ClusterRole
	rules           []rbacv1.PolicyRule
}

func roles(t *testing.T, objects []*unstructured.Unstructured) []role {
	t.Helper()
	var found []role
	for _, object := range objects {
		switch object.GetKind() {
		case "ClusterRole":
			found = append(found, role{name: object.GetName(), rules: typed[rbacv1.ClusterRole](t, object).Rules})
		case "Role":
			found = append(found, role{object.GetName(), object.GetNamespace(), typed[rbacv1.Role](t, object).Rules})
		}
	}
	return found
}

// rights lists every single right as `<where> <group>/<resource>[=<name>] <verb>`, sorted, one a line.
func rights(roles []role) string {
	var lines []string
	for _, r := range roles {
		where := r.namespace
		if where == "" {
			where = "cluster"
		}
		for _, rule := range r.rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range append([]string{}, orNone(rule.ResourceNames)...) {
							lines = append(lines, fmt.Sprintf("%s %s/%s%s %s\n", where, group, resource, name, verb))
						}
					}
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "")
}

// orNone gives the suffixes of the names, or one empty suffix.
func orNone(names []string) []string {
	if len(names) == 0 {
		return []string{""}
	}
	suffixes := make([]string, len(names))
	for i, name := range names {
		suffixes[i] = "=" + name
	}
	return suffixes
}

// operatorRoles leaves out the roles for users, which nobody of ours is bound to.
func operatorRoles(t *testing.T, objects []*unstructured.Unstructured) []role {
	return slices.DeleteFunc(roles(t, objects), func(r role) bool { return r.name == "windlass-view" || r.name == "windlass-edit" })
}

func TestTheOperatorsRightsEqualTheirGolden(t *testing.T) {
	for _, name := range []string{"default", "namespaced"} {
		t.Run(name, func(t *testing.T) {
			expectGolden(t, "rights-"+name+".txt", rights(operatorRoles(t, render(t, "--values", valuesFiles(t)[name]))))
		})
	}
}

func TestNoRightOfTheOperatorIsAWildcardOrReachesSecretsOrShells(t *testing.T) {
	for name, file := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			for _, r := range operatorRoles(t, render(t, "--values", file)) {
				for _, rule := range r.rules {
					if len(rule.NonResourceURLs) > 0 || slices.Contains(rule.APIGroups, "*") {
						t.Errorf("%s: %v", r.name, rule)
					}
					for _, resource := range rule.Resources {
						if slices.Contains(forbiddenResources, resource) {
							t.Errorf("%s grants %s", r.name, resource)
						}
					}
					for _, verb := range rule.Verbs {
						if slices.Contains(forbiddenVerbs, verb) {
							t.Errorf("%s grants %s on %v", r.name, verb, rule.Resources)
						}
					}
				}
			}
		})
	}
}

func TestInNamespacedModeTheOnlyClusterWideRightsAreToReadOurCRDAndToListLeases(t *testing.T) {
	objects := render(t, "--values", valuesFiles(t)["namespaced"])
	var clusterWide []role
	namespaces := map[string]bool{}
	for _, r := range roles(t, objects) {
		if r.namespace == "" {
			clusterWide = append(clusterWide, r)
			continue
		}
		namespaces[r.namespace] = true
	}
	const crd = "cluster apiextensions.k8s.io/customresourcedefinitions=modeldeployments.windlass.dev "
	const want = crd + "list\n" + crd + "watch\ncluster coordination.k8s.io/leases list\n"
	if got := rights(clusterWide); got != want {
		t.Errorf("cluster-wide rights:\n%s", got)
	}
	if len(namespaces) != 3 || !namespaces["team-a"] || !namespaces["team-b"] || !namespaces[namespace] {
		t.Errorf("rights in the namespaces %v", namespaces)
	}
}

func TestEveryBindingNamesARoleAndTheOperatorsAccount(t *testing.T) {
	for name, file := range valuesFiles(t) {
		t.Run(name, func(t *testing.T) {
			objects := render(t, "--values", file)
			bound := map[string]bool{}
			for _, object := range objects {
				if object.GetKind() != "ClusterRoleBinding" && object.GetKind() != "RoleBinding" {
					continue
				}
				binding := typed[rbacv1.RoleBinding](t, object) // both kinds have the same fields
				bound[object.GetNamespace()+"/"+binding.RoleRef.Name] = true
				if len(binding.Subjects) != 1 || binding.Subjects[0].Name != "windlass-operator" || binding.Subjects[0].Namespace != namespace {
					t.Errorf("%s binds %v", object.GetName(), binding.Subjects)
				}
			}
			for _, r := range operatorRoles(t, objects) {
				if !bound[r.namespace+"/"+r.name] {
					t.Errorf("nobody is bound to %s/%s", r.namespace, r.name)
				}
				delete(bound, r.namespace+"/"+r.name)
			}
			if len(bound) > 0 {
				t.Errorf("bindings to roles that do not exist: %v", bound)
			}
		})
	}
}

func TestUsersGetTheirRightsThroughTheClustersOwnRoles(t *testing.T) {
	objects := render(t)
	view := find[rbacv1.ClusterRole](t, objects, "ClusterRole", "windlass-view")
	if view.Labels["rbac.authorization.k8s.io/aggregate-to-view"] != "true" {
		t.Error("windlass-view does not join the role view")
	}
	for _, rule := range view.Rules {
		for _, verb := range rule.Verbs {
			if !slices.Contains([]string{"get", "list", "watch"}, verb) {
				t.Errorf("a viewer may %s %v", verb, rule.Resources)
			}
		}
	}
	edit := find[rbacv1.ClusterRole](t, objects, "ClusterRole", "windlass-edit")
	if edit.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] != "true" {
		t.Error("windlass-edit does not join the role edit")
	}
	for _, rule := range edit.Rules {
		if !slices.Equal(rule.Resources, []string{"modeldeployments"}) && !slices.Equal(rule.Resources, []string{"modeldeployments/scale"}) {
			t.Errorf("an editor may write %v; status is the operator's", rule.Resources)
		}
	}
}
