"""A program built on the Python `spiffe` package, for the tests: fetches everything from the agent once, then watches
until it is stopped. Prints one JSON object a line. The agent is found by SPIFFE_ENDPOINT_SOCKET."""

import json
import sys
import threading

from spiffe import JwtSvid, WorkloadApiClient


# The streams' callbacks come on threads of their own, and a line is written in two pieces.
one_at_a_time = threading.Lock()


def show(**what):
    with one_at_a_time:
        print(json.dumps(what), flush=True)


def show_x509(event, context):
    svid = context.default_svid
    show(
        event=event,
        ids=[str(each.spiffe_id) for each in context.x509_svids],
        serials=[str(each.leaf.serial_number) for each in context.x509_svids],
        not_after=int(svid.leaf.not_valid_after_utc.timestamp()),
        trust_domains=sorted(each.trust_domain.name for each in context.x509_bundle_set.bundles),
    )


def show_keys(event, bundles):
    keys = {each.trust_domain.name: sorted(each.jwt_authorities) for each in bundles.bundles}
    show(event=event, keys=keys)


def fetch(client, audience):
    show_x509("x509", client.fetch_x509_context())
    show(event="x509-bundles", trust_domains=len(client.fetch_x509_bundles().bundles))
    bundles = client.fetch_jwt_bundles()
    show_keys("jwt-bundles", bundles)
    svid = client.fetch_jwt_svid({audience})
    bundle = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    parsed = JwtSvid.parse_and_validate(svid.token, bundle, {audience})
    remote = client.validate_jwt_svid(svid.token, audience)
    try:
        client.validate_jwt_svid(svid.token, audience + "-other")
        refused = False
    except Exception:  # whatever the package makes of the agent's refusal
        refused = True
    show(
        event="jwt",
        id=str(parsed.spiffe_id),
        agent_says=str(remote.spiffe_id),
        audience=sorted(parsed.audience),
        wrong_audience_refused=refused,
    )


def watch(client):
    client.stream_x509_contexts(
        lambda context: show_x509("x509", context),
        lambda error: show(event="x509-error", error=str(error)),
    )
    client.stream_jwt_bundles(
        lambda bundles: show_keys("jwt-bundles", bundles),
        lambda error: show(event="jwt-error", error=str(error)),
    )
    threading.Event().wait()


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "fetch":
        fetch(WorkloadApiClient(), sys.argv[2])
    elif sys.argv[1:] == ["watch"]:
        watch(WorkloadApiClient())
    else:
        sys.exit("usage: client.py fetch AUDIENCE | watch")


main()
