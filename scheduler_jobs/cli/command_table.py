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


def _target(section: str, place: str) -> str:
    """Where a command is: in the folder of its section, if the table does not name it whole."""
    folder = section.lower().replace(" ", "_")
    return place if place.startswith(_GPU) else f"{_CONTROL}.{folder}.{place}"


COMMANDS: Mapping[str, CommandEntry] = MappingProxyType(
    {
        name: CommandEntry(target=_target(section, place), section=section, help=text)
        for section, entries in {
            "Render": (
                ("run", "manifests:run", "Render a manifest here and now, with no server."),
                ("plan", "manifests:plan", "Check a manifest and say what it would render."),
                ("submit", "manifests:submit", "Queue a manifest for the workers."),
            ),
            "Look": (
                ("status", "jobs:status", "Show how far the live jobs are, or one job in detail."),
                (
                    "owners",
                    "owners:owners",
                    "List the owners of jobs, their weights, and what each has in work.",
                ),
                (
                    "owners weigh",
                    "owners:weigh",
                    "Give an owner a larger or smaller share of the workers.",
                ),
                ("watch", "watch:watch", "Follow a job until it ends."),
                ("jobs", "jobs:jobs", "List jobs, newest first."),
                ("images", "images:images", "List and filter images."),
                ("show", "images:show", "Show everything that is known about one image."),
                ("errors", "errors:errors", "Show the errors of a job."),
                ("cost", "cost:cost", "Say what a job cost: time of devices, and its price."),
                (
                    "diff",
                    "comparison:diff",
                    "Say what differs between two jobs: rows, parameters, pixels.",
                ),
                ("contact-sheet", "sheets:contact_sheet", "Put a job's pictures on one page."),
                (
                    "report",
                    "pages:report",
                    "Write a job as one HTML page: figures, failures and a gallery.",
                ),
                ("gallery", "pages:gallery", "Serve jobs and their pictures to a browser, live."),
            ),
            "Curate": (
                (
                    "score",
                    "scores:score",
                    "Judge finished pictures, or show what scorers said of them.",
                ),
                ("tag", "curation:tag", "Give a tag to images."),
                ("untag", "curation:untag", "Take a tag from images."),
                (
                    "pick",
                    "curation:pick",
                    "Tag the best images of each row, prompt or job by a score.",
                ),
                (
                    "duplicates",
                    "curation:duplicates",
                    "Find groups of near-duplicates by perceptual hash.",
                ),
            ),
            "Take away": (
                ("query", "query:query", "Ask the database with a SELECT of your own."),
                (
                    "export",
                    "exports:export",
                    "Write jobs' pictures in a layout that other tools read.",
                ),
                ("exports", "exports:exports", "List exports, newest first."),
                (
                    "import",
                    "imports:import_command",
                    "Take an exported set into this database and store.",
                ),
                ("push", "push:push", "Upload an export to the Hugging Face Hub."),
                ("watermark", "watermark:watermark", "Read the invisible watermark of pictures."),
            ),
            "Steer": (
                ("retry", "job_control:retry", "Render a job's dead images again."),
                ("pause", "job_control:pause", "Stop rendering a job until it is resumed."),
                ("resume", "job_control:resume", "Let a paused job be rendered again."),
                (
                    "cancel",
                    "job_control:cancel",
                    "Cancel the images of a job that are not rendered yet.",
                ),
                (
                    "edit",
                    "job_edits:edit",
                    "Change a job's turn: priority, weight, which workers may render it, how many.",
                ),
                ("label", "labels:label", "Give a job labels, or take them away."),
                ("note", "labels:note", "Write a note to a job, in the place of the one before."),
                ("rm", "removal:rm", "Remove jobs with their images and files."),
                ("prune", "removal:prune", "Remove jobs that ended long ago, as `rm` does."),
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
                    "store_check:verify",
                    "Check every file of a job against its recorded hash.",
                ),
                ("sweep", "store_check:sweep", "Find stored files that belong to no image."),
            ),
            "Models": (
                ("models", "models:models", "List the models that manifests may name."),
                (
                    "models add",
                    "model_registry:add",
                    "Look at a model and write its entry into the registry file.",
                ),
                (
                    "models list",
                    "model_registry:list_models",
                    "Say what each registered model can do, and how large it is.",
                ),
                (
                    "models pull",
                    f"{_GPU}.models:pull",
                    "Fetch registered models from the Hugging Face Hub.",
                ),
                ("tokens", "tokens:tokens", "Show how a model's tokenizer reads a prompt."),
                ("samplers", "models:samplers", "List the samplers and all their names."),
            ),
            "Operate": (
                (
                    "up",
                    "stack:up",
                    "Start the production parts on this machine, and keep them running.",
                ),
                (
                    "join",
                    "stack:join",
                    "Start workers here for the services of `imagemill up` on another machine.",
                ),
                ("down", "stack:down", "Stop what `imagemill up` has started; its data stays."),
                (
                    "ps",
                    "stack:ps",
                    "Show the services of `imagemill up`: state, process, address, restarts.",
                ),
                ("logs", "stack:logs", "Show what the services of `imagemill up` have logged."),
                (
                    "env",
                    "stack:env",
                    "Print the variables by which other shells find the services of "
                    "`imagemill up`.",
                ),
                ("worker", f"{_GPU}.worker:worker", "Render queued images until stopped."),
                (
                    "workers",
                    "workers:workers",
                    "List the workers that are alive, and what each does.",
                ),
                (
                    "workers drain",
                    "workers:drain",
                    "Let a worker give back what it holds and take no more.",
                ),
                ("workers resume", "workers:resume", "Let a drained worker take work again."),
                (
                    "workers pin",
                    "workers:pin",
                    "Let a worker take only the images of one job or model.",
                ),
                ("workers unpin", "workers:unpin", "Let a pinned worker take all work again."),
                ("dispatcher", "services:dispatcher", "Keep workers busy and rescue lost images."),
                (
                    "notifications",
                    "notifications:notifications",
                    "List what was told of jobs by webhook or command, and what failed.",
                ),
                ("notifications retry", "notifications:retry", "Let notifications be sent again."),
                (
                    "notifications test",
                    "notifications:test",
                    "Send a test event from here, by the settings of this machine.",
                ),
                ("flower", "services:flower", "Serve Flower, the web page of the Celery workers."),
                (
                    "serve",
                    "serve:serve",
                    "Serve OpenAI's API for images and batches over the same jobs.",
                ),
                ("keys", "keys:keys", "List the keys of `imagemill serve`: roles and limits."),
                ("keys add", "keys:add", "Make a key for `imagemill serve`, and show it once."),
                ("keys revoke", "keys:revoke", "Let a key open nothing any more."),
                ("migrate", "services:migrate", "Create or upgrade the database's tables."),
                (
                    "backup",
                    "backups:backup",
                    "Copy the database into a new folder, with a list of all pictures.",
                ),
                (
                    "restore",
                    "backups:restore",
                    "Bring a backup back, into a database that has not been used.",
                ),
                ("doctor", "doctor:doctor", "Check the set-up and say how to correct it."),
            ),
        }.items()
        for name, place, text in entries
    }
)
"""The commands by full name, in the order of `--help`. `models pull` belongs to `models`."""


def commands_below(group: str) -> Mapping[str, CommandEntry]:
    """The commands of a group, by their own names. An empty name means the outermost group."""
    prefix = f"{group} " if group else ""
    found = {n.removeprefix(prefix): e for n, e in COMMANDS.items() if n.startswith(prefix)}
    return MappingProxyType({name: entry for name, entry in found.items() if " " not in name})
