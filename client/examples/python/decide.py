"""Decides a name, with nothing but the contract in proto/: the first ordered value wins, for all clients."""

import os
import pathlib
import sys

import grpc
from paxos.v1 import learner_pb2, learner_pb2_grpc, proposer_pb2, proposer_pb2_grpc, types_pb2



def channel(role, address):
    """A connection in plaintext, or with the certificate that the variables of the command `paxos` name."""
    files = [os.environ.get(f"PAXOS_TLS_{part}") for part in ("CA", "KEY", "CERT")]
    if not all(files):
        return grpc.insecure_channel(address)
    credentials = grpc.ssl_channel_credentials(*(pathlib.Path(file).read_bytes() for file in files))
    # The certificate of a process names its role, and not its host.
    domain = os.environ.get("PAXOS_TLS_DOMAIN", "paxos.internal")
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", f"{role}.{domain}")])


name, value = (argument.encode() for argument in sys.argv[1:3])
proposer = proposer_pb2_grpc.ProposerStub(channel("proposer", "127.0.0.1:7101"))
learner = learner_pb2_grpc.LearnerStub(channel("learner", "127.0.0.1:7201"))

# Answered once the command is on the disks of a quorum, at a place in the log. Without an answer, sending the command
# again never decides twice; but without a session, no process can say then which attempt won.
if_absent = types_pb2.Condition(absent=True)
put = types_pb2.Put(key=name, value=value, condition=if_absent)
command = types_pb2.Command(put=put)
version = proposer.Propose(proposer_pb2.ProposeRequest(command=command), timeout=10).version

# The commands before this command in the log determine the outcome; any learner reports the outcome.
result = learner.Result(learner_pb2.ResultRequest(version=version), timeout=10)
print("ours" if result.WhichOneof("outcome") == "applied" else "lost", f"at {version.slot}.{version.offset}")

# Linearizable by default.
read = learner.Read(learner_pb2.ReadRequest(key=name), timeout=10)
print(read.registers[0].value.decode())
