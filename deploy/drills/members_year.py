"""A drill of removed acceptors that come back after many changes, and of lists with few right addresses."""

import random
import time

from catalogue import drill
from changing import all_vote, begin_change, join, look, members, needs_changes, repeat_until_made, retire
from cluster import Cluster
from history import Clients
from members import judge_everything
from trial import wait_until
from trimming import chosen_to, write_registers

# How long removed acceptors run beside the cluster.
BACK_S = 10
# How long a process with a list without a right address is watched.
WRONG_LIST_S = 5


def change(trial, cluster, wanted, *arguments):
    """One change; the lists name the new members afterwards."""
    run = begin_change(cluster, arguments, seen(cluster))
    run.wait()
    repeat_until_made(trial, cluster, run, sorted(wanted))
    if run.code:
        trial.right(False, f"{run}")
    all_vote(cluster)
    cluster.relist(sorted(wanted))


def seen(cluster):
    """The members as `paxos member list` prints them."""
    return wait_until("`paxos member list` answers", lambda: look(cluster), 30, 0.2)


def replace(trial, cluster, name):
    """Replaces a member by a new acceptor. The address names the member, because era 0 has no names of silent members."""
    present = members(cluster)
    new = join(cluster, fresh_name(cluster))
    change(trial, cluster, {*present, new} - {name}, "replace", cluster.url(name), "--with", cluster.url(new))
    return new


def fresh_name(cluster):
    """The name of an acceptor that never existed: kept directories stay."""
    return next(name for name in (f"a{number}" for number in range(1, 99)) if name not in cluster.processes)


def log_lines(cluster, name, start, words):
    """Lines of a log, from a byte on, with one of these words."""
    lines = cluster[name].text(start).splitlines()
    return [line.strip() for line in lines if any(word in line for word in words)]


def comes_back(trial, cluster, clients, name, what, is_aware):
    """Starts a removed acceptor with its kept directory; judges that it does no harm, and that the cluster says what it is.

    An acceptor that was dead at its removal cannot know, until a process that knows meets it."""
    mark, start, begun = cluster.mark(), cluster[name].log.stat().st_size, time.monotonic()
    cluster.acceptors.append(name)
    cluster[name].start()
    wait_until(f"{name} answers", lambda: cluster.probe(name, "livez") == 200, 30)
    time.sleep(BACK_S)
    silence = 1000 * clients.longest_silence(begun, time.monotonic())
    trial.say(f"{what}: longest silence of clients in {BACK_S} s: {silence:.0f} ms")
    cluster.quiet(mark, f"{what}")
    trial.right(cluster[name].runs(), f"{what}: the acceptor runs")
    if is_aware:
        says_outside(trial, cluster, name, what)
    for line in log_lines(cluster, name, start, ("WARN", "INFO", "ERROR"))[-4:]:
        trial.say(f"    log: {line[:400]}")
    urls = f"{cluster.urls},{cluster.url(name)}"
    for command in (["status"], ["member", "list"]):
        result = cluster.paxos(*command, variables={"PAXOS_ACCEPTORS": urls})
        lines = [line.strip() for line in result.out.splitlines()]
        found = [line for line in lines if "no member" in line or "may be stopped" in line]
        trial.right(bool(found), f"{what}: `paxos {' '.join(command)}` (exit {result.code}) says: {' | '.join(found)[:500]}")


def says_outside(trial, cluster, name, what):
    """Judges that an acceptor says itself that it is no member."""
    is_unready = lambda: cluster.probe(name, "readyz") == 503
    wait_until(f"{what}: {name} is not ready", is_unready, 10, 0.1)
    member = cluster.metrics(name).get("paxos_acceptor_member")
    trial.right(member == 0, f"{what}: not ready; paxos_acceptor_member {member}")


def serves(trial, cluster, urls, what):
    """A command with this list serves; prints what it says beside the answer."""
    result = cluster.paxos("put", "settled", "yes", "--timeout", "10s", variables={"PAXOS_ACCEPTORS": urls})
    trial.right(result.code == 0, f"put with {what}: {result}")
    result = cluster.paxos("get", "settled", "--timeout", "10s", variables={"PAXOS_ACCEPTORS": urls})
    trial.right(result.code == 0 and result.out.strip() == "yes", f"get with {what}: {result}")


def fails(trial, cluster, urls, what):
    """Commands with a list of which no acceptor runs end with 69, and say why."""
    for arguments in (["put", "settled", "yes"], ["get", "settled"], ["member", "list"], ["status"]):
        result = cluster.paxos(*arguments, "--timeout", "3s", variables={"PAXOS_ACCEPTORS": urls})
        trial.right(result.code == 69, f"{arguments[0]} with {what}: {result}")


def fails_or_serves(trial, cluster, urls, what):
    """Commands with a list of removed acceptors that run: the real cluster answers, or none."""
    value = f"at {time.monotonic()}"
    put = cluster.paxos("put", "by-old-list", value, "--timeout", "3s", variables={"PAXOS_ACCEPTORS": urls})
    found = cluster.paxos("get", "by-old-list").out.strip()
    trial.right(put.code == 69 or put.code == 0 and found == value, f"put with {what}: {put}")
    for arguments in (["get", "settled"], ["member", "list"], ["status"]):
        result = cluster.paxos(*arguments, "--timeout", "3s", variables={"PAXOS_ACCEPTORS": urls})
        trial.say(f"{' '.join(arguments)} with {what}: {result}")


def role_with(trial, cluster, name, urls, is_right, what):
    """Starts a new proposer or learner with this list, and judges whether it serves."""
    cluster.add(name).set("--acceptors", urls)
    cluster[name].start()
    if is_right:
        if name[0] == "p":
            wait_until(f"{name} is ready with {what}", lambda: cluster.probe(name, "readyz") == 200, 30)
        else:
            wait_until(f"{name} answers with {what}", lambda: cluster.get("settled", name).code == 0, 30)
        trial.right(True, f"{name} serves with {what}")
    else:
        time.sleep(WRONG_LIST_S)
        is_ready = cluster.probe(name, "readyz") == 200
        trial.right(not is_ready, f"{name} is not ready with {what}; it {'runs' if cluster[name].runs() else 'ended'}")
    warnings = log_lines(cluster, name, 0, ("WARN", "ERROR"))
    about = [line for line in warnings if "list" in line or "right" in line]
    for line in (about or warnings or [cluster.last_line(name)])[:4]:
        trial.say(f"    {name}: {line[:500]}")
    if is_right:
        wanted = cluster.urls.split(",")
        trial.right(
            len(about) == 1 and all(url in about[0] for url in wanted),
            f"{name} warns once of the list, with the right addresses: {len(about)} lines",
        )


def drop(cluster, name):
    """Ends a role of the tests of lists."""
    if cluster[name].runs():
        cluster[name].kill()
    (cluster.proposers if name[0] == "p" else cluster.learners).remove(name)


@drill(
    "members-year",
    "removed acceptors come back after many changes; lists with one right address, and with none",
    rounds=20,
    limit_s=420,
    limit_round_s=20,
)
def members_year(trial):
    chance = random.Random(trial.rounds)
    with Cluster(trial) as cluster:
        cluster.start()
        needs_changes(cluster)
        write_registers(trial, cluster)
        since = chosen_to(cluster, "a1")
        with Clients(cluster) as clients:
            # Dead before the change, so it has not heard of the change; and one that hears of the change.
            cluster["a3"].kill()
            replace(trial, cluster, "a3")
            cluster.acceptors.remove("a3")
            replace(trial, cluster, "a2")
            retire(trial, cluster, "a2", is_kept=True)
            old = ",".join(map(cluster.url, ("a1", "a2", "a3")))
            replace(trial, cluster, "a1")
            retire(trial, cluster, "a1", is_kept=True)
            for _ in range(trial.rounds):
                name = chance.choice(members(cluster))
                replace(trial, cluster, name)
                retire(trial, cluster, name)
            trial.say(f"era {seen(cluster)['era']}, members {', '.join(members(cluster))}")
            what = "a list of removed acceptors, of which none runs"
            fails(trial, cluster, old, what)
            for name in ("p5", "l5"):
                role_with(trial, cluster, name, old, False, what)
                drop(cluster, name)
            comes_back(trial, cluster, clients, "a3", "a removed acceptor that has heard of no change", False)
            comes_back(trial, cluster, clients, "a2", "a removed acceptor that has heard of its change", True)
            lists(trial, cluster, old)
            again(trial, cluster)
        judge_everything(trial, cluster, clients, since)


def lists(trial, cluster, old):
    """Commands and roles with lists that name few members, while two removed acceptors of the list run."""
    right = cluster.urls.split(",")[0]
    one = f"{old.split(',')[2]},{old.split(',')[1]},{right}"
    what = "a list with one right address"
    serves(trial, cluster, one, what)
    mark = cluster.mark()
    for name in ("p3", "l3"):
        role_with(trial, cluster, name, one, True, what)
        drop(cluster, name)
    says_outside(trial, cluster, "a3", "a removed acceptor in the list of a proposer that has started")
    # Removed acceptors name the members once they have heard of their removal.
    what = "a list without a right address"
    fails_or_serves(trial, cluster, old, what)
    cluster.paxos("put", "settled", "later")
    for name in ("p4", "l4"):
        role_with(trial, cluster, name, old, True, what)
    found = cluster.get("settled", "l4")
    trial.right(found.out.strip() == "later", f"a new learner with {what} reads the log of the members: {found}")
    for name in ("p4", "l4"):
        drop(cluster, name)
    # A learner knows the members from its own state.
    cluster["l2"].stop()
    cluster["l2"].set("--acceptors", old)
    cluster["l2"].start()
    wait_until("l2 answers", lambda: cluster.get("settled", "l2").code == 0, 30)
    trial.right(True, f"a learner with its state serves with {what}")
    cluster.quiet(mark, "lists with few right addresses")
    cluster.relist(members(cluster))


def again(trial, cluster):
    """A removed acceptor is added with its kept directory, and removed."""
    present = members(cluster)
    for name in ("a3", "a2"):
        change(trial, cluster, {*present, name}, "add", cluster.url(name))
        wait_until(f"{name} is ready", lambda: cluster.probe(name, "readyz") == 200, 10, 0.1)
        trial.right(True, f"{name} votes again with its kept directory")
        change(trial, cluster, {*present}, "remove", name)
        retire(trial, cluster, name)
