"""``init``, ``adopt`` and ``teardown``, and the same three under ``run``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from cocoon_net.cli.options import site_from, site_options
from cocoon_net.errors import SpecError
from cocoon_net.site import Site
from cocoon_net.spec import DEFAULT_DNS, PLATFORMS, POOL_SIZE_ADOPT, POOL_SIZE_INIT, Spec, parse

if TYPE_CHECKING:
    pass

F = TypeVar("F", bound=Callable[..., Any])

PLACES = ("state_dir", "run_dir", "cni_conf_dir", "metadata_url")
"""Flags that say where things are."""

HOW = ("resume", "abandon", "dry_run", "start", "out", "as_json")
"""Flags that say how to go about it."""


def _how(command: F) -> F:
    """Add how to run: all at once, going on, giving up, or only looking."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Show what would be changed, change nothing; exit 1 if anything."),
        click.option("--abandon", is_flag=True, help="Give the unfinished run up; with other flags, start anew."),
        click.option("--resume", is_flag=True, help="Go on with the unfinished run; needs no other flag."),
    ):
        command = option(command)
    return site_options(command)


def what(pool_size: int) -> Callable[[F], F]:
    """Add what the operator may ask for; the Go tool's flags and defaults, and ours after them."""

    def add(command: F) -> F:
        for option in (
            click.option("--credentials-file", metavar="FILE", default="", help="Default ~/.volcengine/config.json."),
            click.option("--endpoint", metavar="URL", default="", help="Of the cloud's API (VOLCENGINE_ENDPOINT)."),
            click.option("--region", default="", help="(VOLCENGINE_REGION; else the instance's)."),
            click.option("--security-group", metavar="SG", default="", help="Default: the primary interface's."),
            click.option("--drop-cidr", multiple=True, metavar="CIDR", help="Drop VM traffic to CIDR; repeatable."),
            click.option("--drop-internal-access", is_flag=True, help="Drop forwarded traffic within --subnet."),
            click.option("--dns", default=",".join(DEFAULT_DNS), show_default=True, help="Servers, with commas."),
            click.option("--primary-nic", default="", help="Default: the link of the primary interface."),
            click.option("--gateway", default="", help="On cni0; default: the subnet's first address."),
            click.option("--pool-size", type=int, default=pool_size, show_default=True, help="Addresses for VMs."),
            click.option("--subnet", default="", metavar="CIDR", help="The VMs' subnet, e.g. 172.20.100.0/24."),
            click.option("--node-name", default="", help="The node's name in the cloud."),
            click.option("--platform", default="", help="volcengine; asked of the metadata when not given."),
        ):
            command = option(command)
        return command

    return add


_start = click.option(
    "--start", is_flag=True, help="Then have systemd start the service, now and at each boot, or reload it."
)


@click.command()
@_how
@_start
@what(POOL_SIZE_INIT)
def init(**flags: Any) -> None:
    """Provision this node: subnet, interfaces, addresses, bridge, rules, CNI file and DHCP pool.

    Interrupted, it goes on where it stopped with --resume, or with the same flags. Without --start, run
    `cocoon-net daemon` next.
    """
    _provision("init", flags, manage_iptables=True)


@click.command()
@_how
@_start
@click.option("--manage-iptables", is_flag=True, help="Let cocoon-net write iptables rules; else yours are kept.")
@what(POOL_SIZE_ADOPT)
def adopt(manage_iptables: bool, **flags: Any) -> None:
    """Bring a node under management whose interfaces and addresses were provisioned by hand.

    The cloud's side is taken as it is and stays when the node is torn down. Without --start, run
    `cocoon-net daemon` next.
    """
    _provision("adopt", flags, manage_iptables=manage_iptables)


@click.command()
@_how
def teardown(resume: bool, abandon: bool, dry_run: bool, **places: Any) -> None:
    """Remove what init made, in reverse order; what was adopted or is not ours stays.

    Refuses while a daemon serves this state directory.
    """
    from cocoon_net import runs
    from cocoon_net.cli.render import Progress

    if dry_run:
        _look_ahead("teardown", places, resume=resume, abandon=abandon)
        return
    site = site_from(**places)
    refuse_beside_daemon(site)
    progress = Progress()
    with progress, runs.at(site, "teardown", bus=progress.bus, say=progress.say) as desk:
        if abandon:
            runs.abandon(desk, runs.unfinished(desk, "teardown"))
            progress.say("the teardown is given up; what it removed stays removed, what it left is in the ledger")
            return
        run = runs.resume(desk, "teardown") if resume else runs.begin_teardown(desk)
        progress.finish(runs.carry(desk, run), desk.journal)


def _provision(workflow: str, flags: dict[str, Any], *, manage_iptables: bool) -> None:
    from cocoon_net import runs
    from cocoon_net.cli.render import Progress

    resume, abandon, dry_run, start = (flags.pop(name) for name in ("resume", "abandon", "dry_run", "start"))
    if dry_run:
        _look_ahead(workflow, flags, manage_iptables=manage_iptables, resume=resume, abandon=abandon)
        return
    site = site_from(**{name: flags.pop(name) for name in PLACES})
    anew = bool(flags["node_name"] or flags["subnet"])
    if resume and (anew or abandon):
        raise SpecError("--resume goes on with what was asked for and takes no other flag", hint="leave the others out")
    only_abandon = abandon and not anew
    if start:
        _require_startable(site, only_abandon=only_abandon)
    spec = None if resume or only_abandon else spec_from(workflow, site, flags, manage_iptables)
    progress = Progress()
    with progress, runs.at(site, workflow, bus=progress.bus, say=progress.say) as desk:
        if abandon:
            unfinished = runs.unfinished(desk, workflow)
            runs.abandon(desk, unfinished)
            progress.say(f"{unfinished.id} is given up; what it made is in the ledger for the next run")
        if only_abandon:
            return
        run = runs.resume(desk, workflow) if spec is None else runs.begin(desk, workflow, spec)
        progress.finish(runs.carry(desk, run), desk.journal, then_serve=not start)
    if start:
        _start_service(progress.say)
    else:
        tell_daemon(site, progress.say)


def _require_startable(site: Site, *, only_abandon: bool) -> None:
    """Raise SpecError where ``--start`` could not be done, before anything is."""
    from cocoon_net import manager
    from cocoon_net.supervisor.presence import daemon_owner

    if only_abandon:
        raise SpecError("--start starts what an init has made, and --abandon alone makes nothing", hint="leave it out")
    manager.require()
    default = Site()
    for name in PLACES:
        if getattr(site, name) != getattr(default, name):
            raise SpecError(
                f"--start: the service would not see this {name.replace('_', ' ')}, {getattr(site, name)}",
                hint="tell it (docs/install.md, Settings of the service), leave --start out, and start it by hand",
            )
    owner = daemon_owner(site)
    if owner and manager.show("ActiveState") not in ("active", "reloading"):
        raise SpecError(
            f"--start: a daemon serves this node that systemd did not start ({owner})",
            hint="stop it, then the same command; guests keep their addresses meanwhile",
        )


def _start_service(say: Callable[[str], None]) -> None:
    from cocoon_net import manager

    say(manager.start())
    unseen = ", ".join(manager.unseen(os.environ))
    if unseen:
        say(f"the service does not see {unseen} of this shell: what its audits need belongs into {manager.SETTINGS}")


def _look_ahead(workflow: str, flags: dict[str, Any], *, resume: bool, abandon: bool, **how: Any) -> None:
    """Do what ``cocoon-net plan`` does."""
    from cocoon_net.cli.plan import foretell

    if resume or abandon:
        raise SpecError("--dry-run changes nothing and takes neither --resume nor --abandon", hint="leave them out")
    foretell(workflow, flags, **how)


def refuse_beside_daemon(site: Site) -> None:
    """Raise SpecError while a daemon serves this node: a teardown would take its pool away."""
    from cocoon_net.supervisor.presence import daemon_owner

    owner = daemon_owner(site)
    if owner:
        raise SpecError(f"a daemon serves this node ({owner})", hint="systemctl stop cocoon-net, then tear down")


def tell_daemon(site: Site, say: Callable[[str], None]) -> None:
    """Have the daemon of this node, if there is one, take the pool that a run has just made."""
    from cocoon_net.supervisor.presence import reload_running

    if reload_running(site):
        say("the running daemon was told to take the new pool")


def asked() -> bool:
    """Say whether the operator asked for something of his own: gave a flag that is no place and not about how."""
    context = click.get_current_context()
    return any(
        context.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        for name in context.params
        if name not in PLACES and name not in HOW
    )


def spec_from(workflow: str, site: Site, flags: dict[str, Any], manage_iptables: bool) -> Spec:
    """Parse the flags; the metadata is asked for the platform only when all else is right."""
    from cocoon_net.cloud.platform import detect

    platform = flags.pop("platform")
    spec = parse(
        platform=platform or PLATFORMS[0],
        dns=[text.strip() for text in flags.pop("dns").split(",")],
        drop_cidrs=flags.pop("drop_cidr"),
        manage_iptables=manage_iptables,
        check_size=workflow == "init",
        **flags,
    )
    return spec if platform else replace(spec, platform=detect(site))


@click.group(invoke_without_command=True)
@click.option("--plan", "file", type=click.Path(dir_okay=False), help="Do what this plan says, if nothing has moved.")
@site_options
@click.pass_context
def run(context: click.Context, /, file: str | None, **places: Any) -> None:
    """Run a workflow, resume it or give it up; or run a plan that `cocoon-net plan --out FILE` kept."""
    if context.invoked_subcommand is not None:
        if file is not None or any(places.values()):
            raise click.UsageError("--plan takes no command; other flags stand after the command")
    elif file is None:
        raise click.UsageError("Missing command, or --plan FILE")
    else:
        _run_plan(Path(file), site_from(**places))


def _run_plan(path: Path, site: Site) -> None:
    from cocoon_net import plans, runs
    from cocoon_net.cli.render import Progress
    from cocoon_net.engine.forecast import parse as parse_plan

    try:
        then = parse_plan(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}", hint="`cocoon-net plan --out FILE` makes one") from None
    workflow = str(then["workflow"])
    if workflow == "teardown":
        refuse_beside_daemon(site)
    progress = Progress()
    with progress, runs.at(site, workflow, bus=progress.bus, say=progress.say) as desk:
        progress.finish(runs.carry(desk, plans.begin(desk, then)), desk.journal)
    if workflow != "teardown":
        tell_daemon(site, progress.say)


for _command in (init, adopt, teardown):
    run.add_command(_command)
