// Drives a gateway by the generated client and prints what it saw as JSON: see docs/clients.md.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"

	"pveexec"
)

// connect makes a client of the gateway that the environment names.
func connect() *pveexec.APIClient {
	authority, err := os.ReadFile(os.Getenv("GATEWAY_CA"))
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)

	config := pveexec.NewConfiguration()
	config.Servers[0].URL = os.Getenv("GATEWAY_URL")
	config.AddDefaultHeader("Authorization", "Bearer "+os.Getenv("GATEWAY_TOKEN"))
	config.HTTPClient = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	return pveexec.NewAPIClient(config)
}

// stream hands over the events of a command as they happen; the last one is its end.
func stream(client *pveexec.APIClient, vmid int64, run *pveexec.ExecRequest, see func(*pveexec.ExecEvent)) error {
	config := client.GetConfig()
	body, err := json.Marshal(run)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("%s/exec/%d", config.Servers[0].URL, vmid)
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, value := range config.DefaultHeader {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/x-ndjson")
	request.Header.Set("Idempotency-Key", newKey())
	reply, err := config.HTTPClient.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	lines := json.NewDecoder(reply.Body)
	if reply.StatusCode != http.StatusOK {
		var problem pveexec.Problem
		if err := lines.Decode(&problem); err != nil {
			return err
		}
		return fmt.Errorf("%s: %s", problem.Code, problem.Detail)
	}
	for {
		var event pveexec.ExecEvent
		if err := lines.Decode(&event); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		see(&event)
	}
}

// waitFor asks for the exec again and again, each time for up to 30 seconds, until it has ended.
func waitFor(client *pveexec.APIClient, id string) *pveexec.Exec {
	for {
		exec, _, err := client.ExecsAPI.ShowExec(context.Background(), id).Wait(30).Execute()
		check(err)
		if exec.State == pveexec.EXECSTATE_ENDED {
			return exec
		}
	}
}

// problemOf is what the gateway said, where that is why a request failed.
func problemOf(err error) (pveexec.Problem, bool) {
	var failed *pveexec.GenericOpenAPIError
	if !errors.As(err, &failed) {
		return pveexec.Problem{}, false
	}
	problem, known := failed.Model().(pveexec.Problem)
	return problem, known
}

func main() {
	client, ctx := connect(), context.Background()
	vmid, err := strconv.ParseInt(os.Getenv("GATEWAY_VMID"), 10, 64)
	check(err)

	container := pveexec.NewContainerRequest()
	container.SetVmid(vmid)
	container.SetTemplate(os.Getenv("TEMPLATE"))
	container.SetStorage("local-lvm")
	guest := pveexec.ContainerRequestAsGuestRequest(container)
	made, _, err := client.GuestsAPI.CreateGuest(ctx).GuestRequest(guest).Wait(60).Execute()
	check(err)
	started, _, err := client.GuestsAPI.StartGuest(ctx, vmid).Wait(60).Execute()
	check(err)
	listed, _, err := client.GuestsAPI.ListGuests(ctx).Execute()
	check(err)
	running := ""
	for _, guest := range listed.Guests {
		if guest.Vmid == vmid {
			running = guest.GetStatus()
		}
	}

	command := pveexec.Command{ArrayOfString: &[]string{"sh", "-c", "echo out; echo err >&2; exit 3"}}
	result, _, err := client.ExecsAPI.RunExec(ctx, vmid).ExecRequest(*pveexec.NewExecRequest(command)).Execute()
	check(err)

	told := []string{}
	script := "echo ready; until [ -e /tmp/go ]; do sleep 0.1; done; echo gone"
	run := pveexec.NewExecRequest(pveexec.Command{String: &script})
	check(stream(client, vmid, run, func(event *pveexec.ExecEvent) {
		switch happened := event.GetActualInstance().(type) {
		case *pveexec.ExecOutputEvent:
			told = append(told, happened.Type+": "+strings.TrimSpace(happened.Data))
			if happened.Data == "ready\n" {
				writeFile(client, vmid, "/tmp/go", []byte("now"))
			}
		case *pveexec.ExecEndEvent:
			told = append(told, fmt.Sprintf("end: %d", *happened.ExitCode.Get()))
		}
	}))

	later := pveexec.NewExecRequest(pveexec.Command{ArrayOfString: &[]string{"cat"}})
	later.SetStdin("later\n")
	later.SetBackground(pveexec.BACKGROUND_KILL)
	begun, _, err := client.ExecsAPI.RunExec(ctx, vmid).ExecRequest(*later).Prefer("respond-async").Execute()
	check(err)
	ended := waitFor(client, begun.Id)
	output, _, err := client.ExecsAPI.ReadStdout(ctx, begun.Id).Execute()
	check(err)

	data := make([]byte, 1<<18)
	for place := range data {
		data[place] = byte(place)
	}
	written := writeFile(client, vmid, "/tmp/data", data)
	file, _, err := client.FilesAPI.ReadFile(ctx, vmid).Path("/tmp/data").Execute()
	check(err)
	equal := bytes.Equal(content(file), data)

	_, reply, err := client.GuestsAPI.ShowGuest(ctx, 999999999).Execute()
	problem, known := problemOf(err)
	if !known {
		log.Fatal("no problem: ", err)
	}

	stopped, _, err := client.GuestsAPI.StopGuest(ctx, vmid).Wait(60).Execute()
	check(err)
	_, _, err = client.GuestsAPI.DeleteGuest(ctx, vmid).Confirm(vmid).Wait(60).Execute()
	check(err)

	check(json.NewEncoder(os.Stdout).Encode(map[string][]any{
		"guest":    {made.State, started.State, running, stopped.State},
		"run":      {result.Stdout, result.Stderr, result.GetExitCode(), result.GetReason()},
		"stream":   {told},
		"detached": {ended.GetExitCode(), string(content(output))},
		"file":     {written.Size, written.GetMode(), equal},
		"problem":  {reply.StatusCode, problem.Code, problem.GetVmid()},
	}))
}

// writeFile puts `data` into a file of the guest. The client sends what is in a file.
func writeFile(client *pveexec.APIClient, vmid int64, path string, data []byte) *pveexec.FileWritten {
	file, err := os.CreateTemp("", "upload")
	check(err)
	defer os.Remove(file.Name())
	_, err = file.Write(data)
	check(err)
	_, err = file.Seek(0, io.SeekStart)
	check(err)
	request := client.FilesAPI.WriteFile(context.Background(), vmid).Path(path).Mode("0600")
	written, _, err := request.Body(file).Execute()
	check(err)
	return written
}

// content is all of a file that the client has received: it is removed.
func content(file *os.File) []byte {
	defer os.Remove(file.Name())
	defer file.Close()
	data, err := io.ReadAll(file)
	check(err)
	return data
}

// newKey is a key of its own for each command: sent again, it runs once.
func newKey() string {
	key := make([]byte, 16)
	_, err := rand.Read(key)
	check(err)
	return hex.EncodeToString(key)
}

func check(err error) {
	if problem, known := problemOf(err); known {
		log.Fatalf("%s: %s", problem.Code, problem.Detail)
	}
	if err != nil {
		log.Fatal(err)
	}
}
