// Decides a name, with nothing but the contract in proto/: the first value to be ordered wins, for every client.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	paxosv1 "paxos/v1"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: decide NAME VALUE")
	}
	name, value := []byte(os.Args[1]), []byte(os.Args[2])
	proposer := paxosv1.NewProposerClient(connect("127.0.0.1:7101"))
	learner := paxosv1.NewLearnerClient(connect("127.0.0.1:7201"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// Answered once the command is on the disks of a quorum, at a place in the log. Without an answer, sending the
	// command again never decides twice; but without a session, no process can say then which attempt won.
	ifAbsent := &paxosv1.Condition{Condition: &paxosv1.Condition_Absent{Absent: true}}
	put := &paxosv1.Put{Key: name, Value: value, Condition: ifAbsent}
	command := &paxosv1.Command{Operation: &paxosv1.Command_Put{Put: put}}
	ordered, err := proposer.Propose(ctx, &paxosv1.ProposeRequest{Command: command})
	check(err)
	version := ordered.GetVersion()

	// The commands before this command in the log determine the outcome; any learner reports the outcome.
	ask := &paxosv1.ResultRequest{Command: &paxosv1.ResultRequest_Version{Version: version}}
	result, err := learner.Result(ctx, ask)
	check(err)
	outcome := "lost"
	if result.GetApplied() != nil {
		outcome = "ours"
	}
	fmt.Printf("%s at %d.%d\n", outcome, version.GetSlot(), version.GetOffset())

	// Linearizable by default.
	read, err := learner.Read(ctx, &paxosv1.ReadRequest{Target: &paxosv1.ReadRequest_Key{Key: name}})
	check(err)
	for _, register := range read.GetRegisters() {
		fmt.Println(string(register.GetValue()))
	}
}

func connect(address string) *grpc.ClientConn {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	return connection
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
