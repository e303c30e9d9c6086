"""Which kind of supervisor runs the clients, put together from the settings."""

from __future__ import annotations

from wxsup import daemon, names, render
from wxsup.errors import SettingInvalid
from wxsup.model import Client, Exit
from wxsup.registry import Registry
from wxsup.settings import Settings
from wxsup.supervisors import Supervisor
from wxsup.supervisors.supervisord import Supervisord

# dbus-daemon(1) lets one user have 256; while the controller is reloaded there are twice the workers, and commands.
BUS_CONNECTIONS = 112
MOST_CONNECTIONS = 32  # of one worker; more only wait for each other in systemd


def supervisor(settings: Settings, registry: Registry) -> Supervisor:
    """Return the supervisor that `settings` name; raise SettingInvalid where what it needs is not installed."""
    if settings.supervisor == "systemd":
        try:
            from wxsup.supervisors.systemd import Systemd
        except ModuleNotFoundError as ex:
            raise SettingInvalid(
                f"supervisor is 'systemd', which needs {ex.name}: pip install 'wxsup[systemd]'"
            ) from ex
        ours = settings.systemd_scope == "user"
        return Systemd(
            "SESSION" if ours else "SYSTEM",
            settings.session_dir,
            ours=ours,
            connections=connections(settings.workers),
        )
    return Supervisord(
        settings.supervisord_socket,
        settings.supervisord_include,
        lambda client: _section(client, settings, registry),
        settings.session_dir,
    )


def connections(workers: int) -> int:
    """Return at how many connections to the bus each of so many workers may ask."""
    return min(MOST_CONNECTIONS, BUS_CONNECTIONS // workers)


def _section(client: Client, settings: Settings, registry: Registry) -> str:
    return render.text(
        "supervisor/wxclient.conf.j2",
        override=settings.template_path,
        program=names.program(client.slug),
        command=[
            daemon.script("wxclient"),
            client.slug,
            "--record",
            str(registry.path(client.slug)),
            "--secret",
            str(registry.secret_path(client.slug)),
        ],
        directory=settings.state_dir,
        logfile=settings.log_dir / f"{names.program(client.slug)}.log",
        exit_lost=int(Exit.LOST),
    )
