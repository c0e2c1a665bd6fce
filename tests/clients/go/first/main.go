// Runs a command in a guest: SSL_CERT_FILE=$GATEWAY_CA go run ./first 101 uname -a
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	"pveexec"
)

func main() {
	config := pveexec.NewConfiguration()
	config.Servers[0].URL = os.Getenv("GATEWAY_URL")
	config.AddDefaultHeader("Authorization", "Bearer "+os.Getenv("GATEWAY_TOKEN"))
	client := pveexec.NewAPIClient(config)

	vmid, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	command := os.Args[2:]
	request := pveexec.NewExecRequest(pveexec.Command{ArrayOfString: &command})
	result, _, err := client.ExecsAPI.RunExec(context.Background(), vmid).ExecRequest(*request).Execute()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(result.Stdout)
	os.Exit(int(result.GetExitCode()))
}
