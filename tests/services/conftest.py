"""Fixtures of the tests that start servers, containers, clusters and workflows."""

from actions import fork, github, runner_environment
from hosts import libraries
from images import base, docker, image, podman
from serving import slim

__all__ = ["base", "docker", "fork", "github", "image", "libraries", "podman", "runner_environment", "slim"]
