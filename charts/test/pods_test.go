package charts

import (
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	podsecurity "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// restricted judges a pod by the rules that the API server itself enforces, in their newest version.
func restricted(t *testing.T, template corev1.PodTemplateSpec) policy.AggregateCheckResult {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := podsecurity.LevelVersion{Level: podsecurity.LevelRestricted, Version: podsecurity.LatestVersion()}
	return policy.AggregateCheckResults(evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec))
}

// pods are the pod templates of the chart with every set of values, and of the samples.
func pods(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	templates := map[string]corev1.PodTemplateSpec{}
	add := func(source, text string) {
		for _, object := range parse(t, text) {
			if object.GetKind() == "Deployment" {
				templates[source+"/"+object.GetName()] = typed[appsv1.Deployment](t, object).Spec.Template
			}
		}
	}
	for name, file := range valuesFiles(t) {
		add(name, renderText(t, "--values", file))
	}
	for name, text := range sampleFiles(t) {
		add(name, text)
	}
	if len(templates) < 5 {
		t.Fatalf("only %d pods found", len(templates))
	}
	return templates
}

func TestEveryPodMeetsTheRestrictedProfileAndMore(t *testing.T) {
	for name, template := range pods(t) {
		t.Run(name, func(t *testing.T) {
			if result := restricted(t, template); !result.Allowed {
				t.Errorf("%s (%s)", result.ForbiddenReason(), result.ForbiddenDetail())
			}
			for _, container := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
				if context := container.SecurityContext; context.ReadOnlyRootFilesystem == nil || !*context.ReadOnlyRootFilesystem {
					t.Errorf("container %s may write to its image", container.Name)
				}
				if container.Resources.Requests.Cpu().IsZero() || container.Resources.Limits.Memory().IsZero() {
					t.Errorf("container %s has no requests or no memory limit", container.Name)
				}
				if container.ReadinessProbe == nil {
					t.Errorf("container %s has no readiness probe", container.Name)
				}
			}
			if template.Spec.AutomountServiceAccountToken == nil {
				t.Error("whether a token is mounted is left to the ServiceAccount")
			}
		})
	}
}

func TestTheRestrictedProfileWouldCatchAPodThatRunsAsRoot(t *testing.T) {
	template := find[appsv1.Deployment](t, render(t), "Deployment", "windlass-operator").Spec.Template
	*template.Spec.SecurityContext.RunAsNonRoot = false
	if restricted(t, template).Allowed {
		t.Error("the check lets everything through")
	}
}

func TestOnlyTheOperatorsPodGetsAToken(t *testing.T) {
	objects := render(t)
	account := find[corev1.ServiceAccount](t, objects, "ServiceAccount", "windlass-operator")
	if account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken {
		t.Error("every pod with this account would get a token")
	}
	pod := find[appsv1.Deployment](t, objects, "Deployment", "windlass-operator").Spec.Template.Spec
	if !*pod.AutomountServiceAccountToken || pod.ServiceAccountName != account.Name {
		t.Error("the operator has no token")
	}
}

func TestImagesComeFromOnePlace(t *testing.T) {
	metadata, err := os.ReadFile(chart + "/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(metadata), "\nappVersion: ")
	version, _, _ := strings.Cut(rest, "\n")
	const digest = "@sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
	for values, want := range map[string][3]string{
		"default": {"windlass.dev/operator:" + version, "windlass.dev/server:" + version, "windlass.dev/registry:" + version},
		// A tag stays, a port is not taken for a tag, a digest stays.
		"full": {"registry.example.com:5000/mirror/windlass.dev/operator:1.2.3", "registry.example.com:5000/mirror/localhost:5000/server:" + version, "registry.example.com:5000/mirror/windlass.dev/registry" + digest},
	} {
		t.Run(values, func(t *testing.T) {
			container := find[appsv1.Deployment](t, render(t, "--values", valuesFiles(t)[values]), "Deployment", "windlass-operator").Spec.Template.Spec.Containers[0]
			if container.Image != want[0] {
				t.Errorf("operator: %s", container.Image)
			}
			for i, flag := range []string{"--server-image=", "--registry-image="} {
				if !slices.Contains(container.Args, flag+want[i+1]) {
					t.Errorf("%s%s is not among %q", flag, want[i+1], container.Args)
				}
			}
		})
	}
}

func TestLabelsOfTheUserNeverReplaceOurs(t *testing.T) {
	deployment := find[appsv1.Deployment](t, render(t, "--values", valuesFiles(t)["full"]), "Deployment", "windlass-operator")
	labels := deployment.Spec.Template.Labels
	for key, value := range deployment.Spec.Selector.MatchLabels {
		if labels[key] != value {
			t.Errorf("%s is %q, the selector wants %q", key, labels[key], value)
		}
	}
	if labels["team"] != "platform" {
		t.Error("the user's own label is missing")
	}
}

func TestADisruptionBudgetComesWithTheSecondReplica(t *testing.T) {
	for _, object := range render(t) {
		if object.GetKind() == "PodDisruptionBudget" {
			t.Error("a budget for one replica would block the drain of its node or mean nothing")
		}
	}
	objects := render(t, "--set", "operator.replicas=2")
	budget := find[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", "windlass-operator")
	deployment := find[appsv1.Deployment](t, objects, "Deployment", "windlass-operator")
	if budget.Spec.MaxUnavailable.IntValue() != 1 || *deployment.Spec.Replicas != 2 {
		t.Errorf("%d unavailable of %d", budget.Spec.MaxUnavailable.IntValue(), *deployment.Spec.Replicas)
	}
}

func TestTheOperatorsNetworkIsClosedButForWhatItNeeds(t *testing.T) {
	objects := render(t)
	network := find[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy", "windlass-operator").Spec
	if !slices.Equal(network.PolicyTypes, []networkingv1.PolicyType{"Ingress", "Egress"}) {
		t.Errorf("policy types %v: what is not listed is open", network.PolicyTypes)
	}
	deployment := find[appsv1.Deployment](t, objects, "Deployment", "windlass-operator")
	for key, value := range network.PodSelector.MatchLabels {
		if deployment.Spec.Template.Labels[key] != value {
			t.Errorf("the policy selects %s=%s, which the pod lacks", key, value)
		}
	}
	open := map[int]bool{}
	for _, rule := range network.Ingress {
		for _, port := range rule.Ports {
			open[port.Port.IntValue()] = true
		}
	}
	for _, port := range deployment.Spec.Template.Spec.Containers[0].Ports {
		if !open[int(port.ContainerPort)] {
			t.Errorf("port %s is closed", port.Name)
		}
		delete(open, int(port.ContainerPort))
	}
	if len(open) > 0 {
		t.Errorf("ports %v are open for nobody", open)
	}
	for _, rule := range network.Egress {
		if len(rule.To) == 0 {
			t.Error("a rule without peers opens everything")
		}
	}
}
