"""A JupyterHub beside the cluster that starts pods as Zero to JupyterHub does with the values of helm/."""

import json
import os

values = json.loads(os.environ["HUB_VALUES"])
given = values["singleuser"]
c = get_config()  # noqa: F821 (JupyterHub gives it)

c.JupyterHub.bind_url = f"http://127.0.0.1:{os.environ['HUB_PORT']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['HUB_PROXY_PORT']}"
c.JupyterHub.hub_bind_url = f"http://0.0.0.0:{os.environ['HUB_API_PORT']}"
c.JupyterHub.hub_connect_url = f"http://{os.environ['HUB_HOST']}:{os.environ['HUB_API_PORT']}"
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret = os.urandom(32)
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["HUB_PASSWORD"]
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"

# Which value is which setting: files/hub/jupyterhub_config.py of Zero to JupyterHub.
c.KubeSpawner.namespace = os.environ["HUB_NAMESPACE"]
c.KubeSpawner.image = "{name}:{tag}".format(**given["image"])
c.KubeSpawner.profile_list = given["profileList"]
c.KubeSpawner.uid = given["uid"]
c.KubeSpawner.fs_gid = given["fsGid"]
c.KubeSpawner.lifecycle_hooks = given["lifecycleHooks"]
c.KubeSpawner.extra_labels = given["extraLabels"] | {
    "app": "jupyterhub",
    "component": "singleuser-server",
}
c.KubeSpawner.environment = given["extraEnv"]
c.KubeSpawner.cpu_guarantee = given["cpu"]["guarantee"]
c.KubeSpawner.mem_guarantee = given["memory"]["guarantee"]
c.KubeSpawner.mem_limit = given["memory"]["limit"]
c.KubeSpawner.start_timeout = 180
c.KubeSpawner.http_timeout = 180
c.KubeSpawner.delete_pvc = True
c.KubeSpawner.storage_pvc_ensure = True
c.KubeSpawner.storage_capacity = given["storage"]["capacity"]
c.KubeSpawner.pvc_name_template = "claim-{username}"
c.KubeSpawner.volumes = [
    {"name": "home", "persistentVolumeClaim": {"claimName": "claim-{username}"}}
]
c.KubeSpawner.volume_mounts = [
    {"name": "home", "mountPath": given["storage"]["homeMountPath"]},
]
c.Spawner.cmd = given["cmd"]
c.Spawner.default_url = given["defaultUrl"]
c.KubeSpawner.update(values["hub"]["config"]["KubeSpawner"])
