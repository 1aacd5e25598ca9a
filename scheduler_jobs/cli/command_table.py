"""All commands of `imagemill`: the module of each, and its line in `--help`. Imports none of them.

So `imagemill --help` is fast, and the control side never imports the commands of the GPU side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandEntry:
    """A command: its `module:attribute`, and its section and line in `imagemill --help`.

    The line must be the first line of the command's docstring; a test checks that.
    """

    target: str
    section: str
    help: str


_CONTROL = "imagemill.scheduler_jobs.cli.commands"
_GPU = "imagemill.worker.cli"

COMMANDS: Mapping[str, CommandEntry] = MappingProxyType(
    {
        name: CommandEntry(target=target, section=section, help=text)
        for section, entries in {
            "Render": (
                (
                    "run",
                    f"{_CONTROL}.manifests:run",
                    "Render a manifest here and now, with no server.",
                ),
                (
                    "plan",
                    f"{_CONTROL}.manifests:plan",
                    "Check a manifest and say what it would render.",
                ),
                ("submit", f"{_CONTROL}.manifests:submit", "Queue a manifest for the workers."),
            ),
            "Look": (
                (
                    "status",
                    f"{_CONTROL}.jobs:status",
                    "Show how far the live jobs are, or one job in detail.",
                ),
                (
                    "owners",
                    f"{_CONTROL}.owners:owners",
                    "List the owners of jobs, their weights, and what each has in work.",
                ),
                (
                    "owners weigh",
                    f"{_CONTROL}.owners:weigh",
                    "Give an owner a larger or smaller share of the workers.",
                ),
                ("watch", f"{_CONTROL}.watch:watch", "Follow a job until it ends."),
                ("jobs", f"{_CONTROL}.jobs:jobs", "List jobs, newest first."),
                ("images", f"{_CONTROL}.images:images", "List and filter images."),
                (
                    "show",
                    f"{_CONTROL}.images:show",
                    "Show everything that is known about one image.",
                ),
                ("errors", f"{_CONTROL}.errors:errors", "Show the errors of a job."),
                (
                    "cost",
                    f"{_CONTROL}.cost:cost",
                    "Say what a job cost: time of devices, and its price.",
                ),
                (
                    "diff",
                    f"{_CONTROL}.comparison:diff",
                    "Say what differs between two jobs: rows, parameters, pixels.",
                ),
                (
                    "contact-sheet",
                    f"{_CONTROL}.sheets:contact_sheet",
                    "Put a job's pictures on one page.",
                ),
                (
                    "report",
                    f"{_CONTROL}.pages:report",
                    "Write a job as one HTML page: figures, failures and a gallery.",
                ),
                (
                    "gallery",
                    f"{_CONTROL}.pages:gallery",
                    "Serve jobs and their pictures to a browser, live.",
                ),
            ),
            "Curate": (
                (
                    "score",
                    f"{_CONTROL}.scores:score",
                    "Judge finished pictures, or show what scorers said of them.",
                ),
                ("tag", f"{_CONTROL}.curation:tag", "Give a tag to images."),
                ("untag", f"{_CONTROL}.curation:untag", "Take a tag from images."),
                (
                    "pick",
                    f"{_CONTROL}.curation:pick",
                    "Tag the best images of each row, prompt or job by a score.",
                ),
                (
                    "duplicates",
                    f"{_CONTROL}.curation:duplicates",
                    "Find groups of near-duplicates by perceptual hash.",
                ),
            ),
            "Take away": (
                (
                    "query",
                    f"{_CONTROL}.query:query",
                    "Ask the database with a SELECT of your own.",
                ),
                (
                    "export",
                    f"{_CONTROL}.exports:export",
                    "Write jobs' pictures in a layout that other tools read.",
                ),
                ("exports", f"{_CONTROL}.exports:exports", "List exports, newest first."),
                (
                    "import",
                    f"{_CONTROL}.imports:import_command",
                    "Take an exported set into this database and store.",
                ),
                (
                    "push",
                    f"{_CONTROL}.push:push",
                    "Upload an export to the Hugging Face Hub.",
                ),
                (
                    "watermark",
                    f"{_CONTROL}.watermark:watermark",
                    "Read the invisible watermark of pictures.",
                ),
            ),
            "Steer": (
                ("retry", f"{_CONTROL}.job_control:retry", "Render a job's dead images again."),
                (
                    "pause",
                    f"{_CONTROL}.job_control:pause",
                    "Stop rendering a job until it is resumed.",
                ),
                ("resume", f"{_CONTROL}.job_control:resume", "Let a paused job be rendered again."),
                (
                    "cancel",
                    f"{_CONTROL}.job_control:cancel",
                    "Cancel the images of a job that are not rendered yet.",
                ),
                (
                    "edit",
                    f"{_CONTROL}.job_edits:edit",
                    "Change a job's turn: priority, weight, which workers may render it, how many.",
                ),
                (
                    "label",
                    f"{_CONTROL}.labels:label",
                    "Give a job labels, or take them away.",
                ),
                (
                    "note",
                    f"{_CONTROL}.labels:note",
                    "Write a note to a job, in the place of the one before.",
                ),
                ("rm", f"{_CONTROL}.removal:rm", "Remove jobs with their images and files."),
                (
                    "prune",
                    f"{_CONTROL}.removal:prune",
                    "Remove jobs that ended long ago, as `rm` does.",
                ),
            ),
            "Prove": (
                (
                    "reproduce",
                    f"{_GPU}.worker:reproduce",
                    "Render images again and compare the pixels.",
                ),
                (
                    "certify",
                    f"{_GPU}.models:certify",
                    "Test whether pixels depend on neighbours, slot or order on this device.",
                ),
                (
                    "roundtrip",
                    f"{_GPU}.pictures:roundtrip",
                    "Send a picture through a model's autoencoder, as it is and with noise.",
                ),
                (
                    "verify",
                    f"{_CONTROL}.store_check:verify",
                    "Check every file of a job against its recorded hash.",
                ),
                (
                    "sweep",
                    f"{_CONTROL}.store_check:sweep",
                    "Find stored files that belong to no image.",
                ),
            ),
            "Models": (
                ("models", f"{_CONTROL}.models:models", "List the models that manifests may name."),
                (
                    "models add",
                    f"{_CONTROL}.model_registry:add",
                    "Look at a model and write its entry into the registry file.",
                ),
                (
                    "models list",
                    f"{_CONTROL}.model_registry:list_models",
                    "Say what each registered model can do, and how large it is.",
                ),
                (
                    "models pull",
                    f"{_GPU}.models:pull",
                    "Fetch registered models from the Hugging Face Hub.",
                ),
                (
                    "tokens",
                    f"{_CONTROL}.tokens:tokens",
                    "Show how a model's tokenizer reads a prompt.",
                ),
                (
                    "samplers",
                    f"{_CONTROL}.models:samplers",
                    "List the samplers and all their names.",
                ),
            ),
            "Operate": (
                (
                    "up",
                    f"{_CONTROL}.stack:up",
                    "Start the production parts on this machine, and keep them running.",
                ),
                (
                    "join",
                    f"{_CONTROL}.stack:join",
                    "Start workers here for the services of `imagemill up` on another machine.",
                ),
                (
                    "down",
                    f"{_CONTROL}.stack:down",
                    "Stop what `imagemill up` has started; its data stays.",
                ),
                (
                    "ps",
                    f"{_CONTROL}.stack:ps",
                    "Show the services of `imagemill up`: state, process, address, restarts.",
                ),
                (
                    "logs",
                    f"{_CONTROL}.stack:logs",
                    "Show what the services of `imagemill up` have logged.",
                ),
                (
                    "env",
                    f"{_CONTROL}.stack:env",
                    "Print the variables by which other shells find the services of "
                    "`imagemill up`.",
                ),
                ("worker", f"{_GPU}.worker:worker", "Render queued images until stopped."),
                (
                    "workers",
                    f"{_CONTROL}.workers:workers",
                    "List the workers that are alive, and what each does.",
                ),
                (
                    "workers drain",
                    f"{_CONTROL}.workers:drain",
                    "Let a worker give back what it holds and take no more.",
                ),
                (
                    "workers resume",
                    f"{_CONTROL}.workers:resume",
                    "Let a drained worker take work again.",
                ),
                (
                    "workers pin",
                    f"{_CONTROL}.workers:pin",
                    "Let a worker take only the images of one job or model.",
                ),
                (
                    "workers unpin",
                    f"{_CONTROL}.workers:unpin",
                    "Let a pinned worker take all work again.",
                ),
                (
                    "dispatcher",
                    f"{_CONTROL}.services:dispatcher",
                    "Keep workers busy and rescue lost images.",
                ),
                (
                    "notifications",
                    f"{_CONTROL}.notifications:notifications",
                    "List what was told of jobs by webhook or command, and what failed.",
                ),
                (
                    "notifications retry",
                    f"{_CONTROL}.notifications:retry",
                    "Let notifications be sent again.",
                ),
                (
                    "notifications test",
                    f"{_CONTROL}.notifications:test",
                    "Send a test event from here, by the settings of this machine.",
                ),
                (
                    "flower",
                    f"{_CONTROL}.services:flower",
                    "Serve Flower, the web page of the Celery workers.",
                ),
                (
                    "serve",
                    f"{_CONTROL}.serve:serve",
                    "Serve OpenAI's API for images and batches over the same jobs.",
                ),
                (
                    "keys",
                    f"{_CONTROL}.keys:keys",
                    "List the keys of `imagemill serve`: roles and limits.",
                ),
                (
                    "keys add",
                    f"{_CONTROL}.keys:add",
                    "Make a key for `imagemill serve`, and show it once.",
                ),
                (
                    "keys revoke",
                    f"{_CONTROL}.keys:revoke",
                    "Let a key open nothing any more.",
                ),
                (
                    "migrate",
                    f"{_CONTROL}.services:migrate",
                    "Create or upgrade the database's tables.",
                ),
                (
                    "backup",
                    f"{_CONTROL}.backups:backup",
                    "Copy the database into a new folder, with a list of all pictures.",
                ),
                (
                    "restore",
                    f"{_CONTROL}.backups:restore",
                    "Bring a backup back, into a database that has not been used.",
                ),
                (
                    "doctor",
                    f"{_CONTROL}.doctor:doctor",
                    "Check the set-up and say how to correct it.",
                ),
            ),
        }.items()
        for name, target, text in entries
    }
)
"""The commands by full name, in the order of `--help`. `models pull` belongs to `models`."""


def commands_below(group: str) -> Mapping[str, CommandEntry]:
    """The commands of a group, by their own names. An empty name means the outermost group."""
    prefix = f"{group} " if group else ""
    found = {n.removeprefix(prefix): e for n, e in COMMANDS.items() if n.startswith(prefix)}
    return MappingProxyType({name: entry for name, entry in found.items() if " " not in name})
